"""A text-to-image pipeline whose whole call is code of the project."""

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.utils import torch_utils

from inkpress.tones import fade, on_paper


class PressPipeline(StableDiffusionPipeline):
    """A prompt becomes a printed digit."""

    def embedded(self, prompt):
        """Return the embeddings of a prompt."""
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids)[0]

    def first_latents(self, shape, generator, dtype):
        """Return noise in the size in which the scheduler begins."""
        drawn = torch_utils.randn_tensor(shape, generator=generator, dtype=dtype)
        return drawn * self.scheduler.init_noise_sigma

    def guided(self, prediction, scale):
        """Return the prediction with guidance."""
        uncond, text = prediction.chunk(2)
        guidance = text - uncond
        return uncond + scale * guidance

    @torch.no_grad()
    def __call__(
        self,
        prompt,
        negative_prompt="",
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=None,
        output_type="np",
    ):
        """Make one image."""
        embeddings = self.embedded(prompt)
        empty = self.embedded(negative_prompt)
        condition = torch.cat([empty, embeddings])

        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps

        channels = self.unet.config.in_channels
        size = self.unet.config.sample_size
        latents = self.first_latents((1, channels, size, size), generator, condition.dtype)

        for index, timestep in enumerate(timesteps):
            doubled = torch.cat([latents] * 2)
            doubled = self.scheduler.scale_model_input(doubled, timestep)
            prediction = self.unet(
                doubled,
                timestep,
                encoder_hidden_states=condition,
            ).sample
            prediction = self.guided(prediction, guidance_scale)
            stepped = self.scheduler.step(prediction, timestep, latents)
            latents = stepped.prev_sample
            latents = fade(latents, index, len(timesteps))

        latents = latents / self.vae.config.scaling_factor
        decoded = self.vae.decode(latents).sample
        image = (decoded / 2 + 0.5).clamp(0, 1)
        image = image.permute(0, 2, 3, 1).float().numpy()
        image = on_paper(image)
        return StableDiffusionPipelineOutput(images=image, nsfw_content_detected=None)
