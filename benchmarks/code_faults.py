"""Edits code between stages and inside modules, and counts how often `explain` names the line.

The first twenty edits and more are of `own_code`, a package of a project, between the stages of its
pipeline; the others are of files of diffusers and transformers, in a copy that comes first on the
path, inside modules and schedulers. Both sides run. An answer is right if the statement that it
names first stands in the edited file and holds an edited line; of a statement that was taken away,
if the baseline's side names it.

    python benchmarks/code_faults.py            # both kinds, some ten minutes
    python benchmarks/code_faults.py --own      # between stages alone

A row is printed for each edit, and the count at the end.
"""

# ruff: noqa: E501 (statements of other files stand here as they are)
from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from common import SCENARIOS, temporary_session

from harness.judge.line_diff import CodePlace, UnequalLine
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.session import Session
from harness.study.root_causes import RootCauseSearch

OWN_CODE = Path(__file__).resolve().parent / "own_code"
PIPELINE, TONES = "inkpress/pipelines.py", "inkpress/tones.py"
DDIM = "diffusers/schedulers/scheduling_ddim.py"
RESNET = "diffusers/models/resnet.py"
ATTENTION = "diffusers/models/attention_processor.py"
CLIP = "transformers/models/clip/modeling_clip.py"


@dataclass(frozen=True)
class Edit:
    """An edit of one file: `old`, which stands there once, becomes `new`.

    `scenario` runs it, where the file is not of the project's own code.
    """

    file: str
    old: str
    new: str
    scenario: str = ""


BETWEEN_STAGES = (
    Edit(PIPELINE, "uncond, text = prediction", "text, uncond = prediction"),
    Edit(PIPELINE, "guidance = text - uncond", "guidance = (text - uncond) * 1.001"),
    Edit(PIPELINE, "uncond + scale * guidance", "text + (scale - 1) * guidance"),
    Edit(
        PIPELINE,
        "self.guided(prediction, guidance_scale)",
        "self.guided(prediction, guidance_scale if index != 1 else 1.0)",
    ),
    Edit(PIPELINE, "latents / self.vae.config.scaling_factor", "latents / 0.18"),
    Edit(PIPELINE, "        latents = latents / self.vae.config.scaling_factor\n", ""),
    Edit(PIPELINE, "(decoded / 2 + 0.5)", "(decoded * 0.5 + 0.499)"),
    Edit(PIPELINE, ".clamp(0, 1)", ".clamp(0, 0.9)"),
    Edit(PIPELINE, ".float().numpy()", ".half().float().numpy()"),
    Edit(PIPELINE, "drawn * self.scheduler.init_noise_sigma", "drawn * 1.001"),
    Edit(PIPELINE, "[empty, embeddings]", "[embeddings, empty]"),
    Edit(PIPELINE, "[latents] * 2", "[latents, latents * 1.0001]"),
    Edit(PIPELINE, "=condition,", "=condition * 1.001,"),
    Edit(PIPELINE, "                timestep,\n", "                timestep + 1,\n"),
    Edit(PIPELINE, "(prediction, timestep, latents)", "(prediction, timestep, latents * 1.0001)"),
    Edit(PIPELINE, "= self.scheduler.timesteps", "= self.scheduler.timesteps - 1"),
    Edit(PIPELINE, "set_timesteps(num_inference_steps)", "set_timesteps(num_inference_steps + 1)"),
    Edit(
        PIPELINE,
        "            prompt,\n            padding",
        '            prompt + " eight",\n            padding',
    ),
    Edit(PIPELINE, "(tokens.input_ids)[0]", "(tokens.input_ids)[0] * 1.0001"),
    Edit(PIPELINE, 'negative_prompt="",', 'negative_prompt="blurry",'),
    Edit(TONES, "PAPER = 0.02", "PAPER = 0.03"),
    Edit(TONES, "    printed = printed + PAPER\n", ""),
    Edit(TONES, "np.clip(printed, 0, 1)", "np.round(np.clip(printed, 0, 1) * 255) / 255"),
    Edit(TONES, "index < steps // 2", "index < steps // 2 + 1"),
    Edit(TONES, "0.01 * index", "0.011 * index"),
)
INSIDE = (
    Edit(
        DDIM,
        "        beta_prod_t = 1 - alpha_prod_t\n\n        # 3.",
        "        beta_prod_t = 1.0001 - alpha_prod_t\n\n        # 3.",
        "sd-digits",
    ),
    Edit(
        DDIM,
        "pred_original_sample = (sample - beta_prod_t ** (0.5) * model_output) / alpha_prod_t ** (0.5)",
        "pred_original_sample = (sample - beta_prod_t ** (0.5) * model_output) / alpha_prod_t ** (0.501)",
        "sd-digits",
    ),
    Edit(
        DDIM,
        "prev_timestep = timestep - self.config.num_train_timesteps // self.num_inference_steps\n\n        # 2.",
        "prev_timestep = timestep - self.config.num_train_timesteps // self.num_inference_steps + 1\n\n        # 2.",
        "sd-digits",
    ),
    Edit(
        DDIM,
        "prev_sample = alpha_prod_t_prev ** (0.5) * pred_original_sample + pred_sample_direction",
        "prev_sample = alpha_prod_t_prev ** (0.5) * pred_original_sample + 1.001 * pred_sample_direction",
        "sd-digits",
    ),
    Edit(
        DDIM,
        "timesteps += self.config.steps_offset",
        "timesteps += self.config.steps_offset + 1",
        "sd-digits",
    ),
    Edit(DDIM, "self.alphas = 1.0 - self.betas", "self.alphas = 1.00001 - self.betas", "sd-digits"),
    Edit(
        DDIM,
        "self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)",
        "self.alphas_cumprod = torch.cumprod(self.alphas**1.0001, dim=0)",
        "sd-digits",
    ),
    Edit(
        DDIM,
        "            pred_original_sample = pred_original_sample.clamp(\n                -self.config.clip_sample_range, self.config.clip_sample_range\n",
        "            pred_original_sample = pred_original_sample.clamp(\n                -self.config.clip_sample_range * 0.9, self.config.clip_sample_range\n",
        "ddim-digits",
    ),
    Edit(
        RESNET,
        "                hidden_states = hidden_states + temb\n            hidden_states = self.norm2",
        "                hidden_states = hidden_states + temb * 1.001\n            hidden_states = self.norm2",
        "sd-digits",
    ),
    Edit(
        RESNET,
        "                temb = self.nonlinearity(temb)\n            temb = self.time_emb_proj",
        "                temb = self.nonlinearity(temb) * 0.999\n            temb = self.time_emb_proj",
        "sd-digits",
    ),
    Edit(
        RESNET,
        "        output_tensor = (input_tensor + hidden_states) / self.output_scale_factor\n\n        return output_tensor\n\n\n# unet_rl.py\ndef rearrange_dims",
        "        output_tensor = (input_tensor + 0.999 * hidden_states) / self.output_scale_factor\n\n        return output_tensor\n\n\n# unet_rl.py\ndef rearrange_dims",
        "ddim-digits",
    ),
    Edit(
        "diffusers/models/embeddings.py",
        "    exponent = exponent / (half_dim - downscale_freq_shift)\n\n    emb = torch.exp(exponent)\n    emb = timesteps[:, None]",
        "    exponent = exponent / (half_dim - downscale_freq_shift + 0.01)\n\n    emb = torch.exp(exponent)\n    emb = timesteps[:, None]",
        "sd-digits",
    ),
    Edit(
        "diffusers/models/embeddings.py",
        "    emb = torch.cat([torch.sin(emb), torch.cos(emb)], dim=-1)\n\n    # flip sine and cosine embeddings\n    if flip_sin_to_cos:\n        emb = torch.cat([emb[:, half_dim:]",
        "    emb = torch.cat([torch.sin(emb), torch.cos(emb * 1.0001)], dim=-1)\n\n    # flip sine and cosine embeddings\n    if flip_sin_to_cos:\n        emb = torch.cat([emb[:, half_dim:]",
        "ddim-digits",
    ),
    Edit(
        "diffusers/models/activations.py",
        "            return hidden_states * self.gelu(gate)",
        "            return hidden_states * self.gelu(gate) * 1.0001",
        "sd-digits",
    ),
    Edit(
        "diffusers/models/activations.py",
        "        return F.gelu(gate)\n\n    def forward(self, hidden_states, *args",
        '        return F.gelu(gate, approximate="tanh")\n\n    def forward(self, hidden_states, *args',
        "sd-digits",
    ),
    Edit(
        "diffusers/models/upsampling.py",
        '                hidden_states = F.interpolate(hidden_states, scale_factor=2.0, mode="nearest")\n            else:\n                hidden_states = F.interpolate(hidden_states, size=output_size, mode="nearest")\n\n        # Cast back',
        '                hidden_states = F.interpolate(hidden_states, scale_factor=2.0, mode="bilinear")\n            else:\n                hidden_states = F.interpolate(hidden_states, size=output_size, mode="nearest")\n\n        # Cast back',
        "sd-digits",
    ),
    Edit(
        "diffusers/models/autoencoders/autoencoder_kl.py",
        "            z = self.post_quant_conv(z)\n\n        dec = self.decoder(z)\n\n        if not return_dict:",
        "            z = self.post_quant_conv(z)\n\n        dec = self.decoder(z * 1.0001)\n\n        if not return_dict:",
        "sd-digits",
    ),
    Edit(
        "diffusers/models/transformers/transformer_2d.py",
        "output = hidden_states + residual",
        "output = 0.999 * hidden_states + residual",
        "sd-digits",
    ),
    Edit(
        CLIP,
        "        embeddings = inputs_embeds + position_embeddings\n\n        return embeddings\n\n\ndef eager",
        "        embeddings = inputs_embeds + 1.001 * position_embeddings\n\n        return embeddings\n\n\ndef eager",
        "sd-digits",
    ),
    Edit(
        CLIP,
        "        hidden_states = self.activation_fn(hidden_states)\n        hidden_states = self.fc2(hidden_states)",
        "        hidden_states = self.activation_fn(hidden_states * 1.001)\n        hidden_states = self.fc2(hidden_states)",
        "sd-digits",
    ),
    Edit(
        "diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py",
        "noise_pred = noise_pred_uncond + self.guidance_scale * (noise_pred_text - noise_pred_uncond)",
        "noise_pred = noise_pred_text + self.guidance_scale * (noise_pred_text - noise_pred_uncond)",
        "sd-digits",
    ),
    Edit(
        "diffusers/image_processor.py",
        "        return (images * 0.5 + 0.5).clamp(0, 1)",
        "        return (images * 0.5 + 0.5).clamp(0, 0.95)",
        "sd-digits",
    ),
    Edit(
        "diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py",
        "        latents = latents * self.scheduler.init_noise_sigma\n        return latents",
        "        latents = latents * self.scheduler.init_noise_sigma * 1.001\n        return latents",
        "sd-digits",
    ),
)


@dataclass(frozen=True)
class Answer:
    """What was named of one edit, and whether that is right.

    `place` is the statement, in words; `stage` where it was found.
    """

    edit: Edit
    right: bool
    place: str
    stage: str


def edited(edit: Edit, path: Path) -> tuple[set[int], set[int]]:
    """Edit a file; return its edited lines, and the lines as they were that were taken away."""
    before = path.read_text(encoding="utf-8")
    assert before.count(edit.old) == 1, (edit.file, edit.old, before.count(edit.old))
    after = before.replace(edit.old, edit.new)
    path.write_text(after, encoding="utf-8")
    matcher = SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    new: set[int] = set()
    gone: set[int] = set()
    for how, start, end, new_start, new_end in matcher.get_opcodes():
        if how != "equal":
            new |= set(range(new_start + 1, new_end + 1))
            gone |= set(range(start + 1, end + 1))
    return new, gone


def is_right(edit: Edit, lines: tuple[set[int], set[int]], found: UnequalLine | None) -> bool:
    """Return whether the statement that was found is the edited one."""
    new, gone = lines
    if found is None:
        return False
    if new:
        return found.actual is not None and _holds(found.actual, edit.file, new)
    return found.expected is not None and _holds(found.expected, edit.file, gone)


def _holds(place: CodePlace, file: str, lines: set[int]) -> bool:
    return place.file == file and any(place.first <= line <= place.last for line in lines)


def look(session: Session, actual: Case, expected: Case) -> tuple[UnequalLine | None, str]:
    """Run both sides; return the first statement that was named, and in which stage."""
    folder = session.out / "search"
    recordings = [
        session.record(replace(side, detail={}), session.slot(index), folder / str(index))
        for index, side in enumerate((actual, expected))
    ]
    search = RootCauseSearch(session, actual, expected, folder, lambda _: None)
    causes = search.find(recordings[0], recordings[1], 1)
    if causes and not (search.between is not None and search.between.is_table):
        return causes[0].line, f"{causes[0].stage} {causes[0].module}"
    if search.between is not None:
        return search.between.line, f"{search.between.after} to {search.between.before or 'end'}"
    return None, "nothing"


def answer(
    edit: Edit, lines: tuple[set[int], set[int]], found: UnequalLine | None, stage: str
) -> Answer:
    """Judge what was found."""
    place = "nothing"
    if found is not None:
        place = str(found.actual) if found.actual is not None else f"without {found.expected}"
    return Answer(edit, is_right(edit, lines, found), place, stage)


def own_case(folder: Path) -> Case:
    """Return the case of a copy of the project."""
    return read(folder / "press.yaml").cases()[0]


def between_stages(session: Session, edits: Sequence[Edit] = BETWEEN_STAGES) -> Iterator[Answer]:
    """Yield the answers for edits of the project's own code."""
    folder = session.out / "code"
    expected = shutil.copytree(OWN_CODE, folder / "expected")
    for index, edit in enumerate(edits):
        actual = shutil.copytree(OWN_CODE, folder / f"actual-{index}")
        lines = edited(edit, actual / edit.file)
        found, stage = look(session, own_case(actual), own_case(expected))
        yield answer(edit, lines, found, stage)


def inside(session: Session, edits: Sequence[Edit] = INSIDE) -> Iterator[Answer]:
    """Yield the answers for edits of installed libraries, each in a copy of its package."""
    for edit in edits:
        with _temporary() as folder:
            package = edit.file.partition("/")[0]
            spec = importlib.util.find_spec(package)
            assert spec is not None
            assert spec.origin is not None
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(spec.origin).parent, folder / package, ignore=ignored)
            lines = edited(edit, folder / edit.file)
            case = short(edit.scenario)
            # A worker takes the path of its caller; other settings make it another worker.
            actual = replace(case, settings=(("EDITED_COPY", str(folder)),))
            session.record(replace(case, detail={}), session.slot(1), session.out / "expected")
            os.environ["PYTHONPATH"] = str(folder)
            try:
                found, stage = look(session, actual, case)
            finally:
                os.environ.pop("PYTHONPATH", None)
            yield answer(edit, lines, found, stage)


def short(name: str) -> Case:
    """Return the first case of a scenario of this repository, with two steps."""
    scenario = read(SCENARIOS / f"{name}.yaml")
    call = {**scenario.call, "num_inference_steps": 2}
    return replace(scenario, call=call).cases()[0]


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as text:
        yield Path(text).resolve()


def main() -> None:
    """Print a row for each edit, and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--own", action="store_true", help="edits between stages alone")
    parser.add_argument("--inside", action="store_true", help="edits of libraries alone")
    arguments = parser.parse_args()
    kinds = {"between stages": between_stages, "inside": inside}
    if arguments.own:
        del kinds["inside"]
    if arguments.inside:
        del kinds["between stages"]
    counts = []
    for kind, answers in kinds.items():
        with temporary_session() as session:
            told = []
            for each in answers(session):
                told.append(each)
                mark = "right" if each.right else "WRONG"
                print(
                    f"{mark} {each.edit.file}: {' '.join(each.edit.new.split())[:70]!r} -> "
                    f"{each.place} ({each.stage})",
                    flush=True,
                )
        counts.append(f"{kind}: {sum(each.right for each in told)} of {len(told)}")
    print("; ".join(counts))


if __name__ == "__main__":
    main()
