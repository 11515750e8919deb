"use strict";
// Everything here is a convenience: without it the page shows the same content.

const THEME = "harness-theme";

function remembered() {
  try { return localStorage.getItem(THEME); } catch { return null; } // files may have no storage
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem(THEME, theme); } catch { /* it holds for this visit only */ }
}

function setUpTheme() {
  const theme = remembered();
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  document.getElementById("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme
      || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    setTheme(now === "dark" ? "light" : "dark");
  });
}

// Tables of the class `sortable`: a button in each heading sorts by that column.

function valueOf(row, column) {
  const cell = row.cells[column];
  const number = cell.dataset.number;
  return number === undefined ? cell.textContent.trim() : Number(number);
}

function compare(one, other) {
  const areNumbers = typeof one === "number" && typeof other === "number";
  if (areNumbers) {
    if (Number.isNaN(one)) return Number.isNaN(other) ? 0 : 1; // no value is the largest
    return Number.isNaN(other) ? -1 : one - other;
  }
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return one.localeCompare(other, "en", { numeric: true });
}

function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => sign * compare(valueOf(one, column), valueOf(other, column)));
  table.tBodies[0].append(...rows);
}

function setUpSorting(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.title = "Sort by this column";
    heading.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, column));
  });
}

// The list of cases: words and a verdict filter the table and the details alike.

function setUpFilter() {
  const words = document.getElementById("filter-words");
  const verdict = document.getElementById("filter-verdict");
  const count = document.getElementById("filter-count");
  if (!words) return;
  const rows = new Map([...document.getElementById("case-list").tBodies[0].rows].map(
    (row) => [row.querySelector("a").hash.slice(1), row]));
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const details of document.querySelectorAll("details.case")) {
      const text = details.dataset.case.toLowerCase();
      const fits = wanted.every((word) => text.includes(word))
        && (!verdict.value || details.dataset.verdict === verdict.value);
      details.hidden = !fits;
      rows.get(details.id).hidden = !fits;
      if (fits) shown += 1;
    }
    count.textContent = shown === 1 ? "1 case shown" : `${shown} cases shown`;
  };
  words.addEventListener("input", apply);
  verdict.addEventListener("change", apply);
}

function setUpFolding() {
  for (const [id, open] of [["open-all", true], ["close-all", false]]) {
    const button = document.getElementById(id);
    if (!button) continue;
    button.addEventListener("click", () => {
      for (const each of document.querySelectorAll("details.case")) each.open = open;
    });
  }
}

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}

// Pictures: a zoom of all panes at once, and a slider between the baseline and this run.

function setUpPictures(pictures) {
  const views = [...pictures.querySelectorAll(".view")];
  const zoom = pictures.querySelector(".zoom");
  const slider = pictures.querySelector(".slider");
  const find = pictures.querySelector(".find");
  zoom.addEventListener("change", () => {
    const view = views[0];
    const [x, y] = [middle(view, "Left", "Width"), middle(view, "Top", "Height")];
    pictures.style.setProperty("--zoom", zoom.value);
    for (const each of views) centre(each, x, y);
  });
  for (const view of views) {
    view.addEventListener("scroll", () => {
      for (const other of views) {
        if (other === view) continue;
        if (other.scrollLeft !== view.scrollLeft) other.scrollLeft = view.scrollLeft;
        if (other.scrollTop !== view.scrollTop) other.scrollTop = view.scrollTop;
      }
    });
  }
  if (find) find.addEventListener("click", () => {
    const mark = pictures.querySelector(".mark");
    if (zoom.value === "1") { zoom.value = "4"; pictures.style.setProperty("--zoom", "4"); }
    for (const each of views) {
      centre(each, parseFloat(mark.style.left) / 100, parseFloat(mark.style.top) / 100);
    }
  });
  if (slider) setUpSlider(pictures, slider);
}

function middle(view, side, extent) {
  return (view[`scroll${side}`] + view[`client${extent}`] / 2) / view[`scroll${extent}`];
}

function centre(view, x, y) {
  view.scrollLeft = x * view.scrollWidth - view.clientWidth / 2;
  view.scrollTop = y * view.scrollHeight - view.clientHeight / 2;
}

// The pane of this run gets the baseline on top of it, cut off at the slider's place.
function setUpSlider(pictures, slider) {
  const [expected, actual] = pictures.querySelectorAll(".pane img");
  const edge = document.createElement("div");
  edge.className = "edge";
  slider.addEventListener("input", () => {
    const canvas = actual.parentElement;
    if (!canvas.contains(edge)) {
      const under = expected.cloneNode();
      under.alt = "";
      actual.classList.add("over");
      canvas.prepend(under);
      canvas.append(edge);
    }
    canvas.style.setProperty("--at", `${slider.value}%`);
  });
}

function setUpCopying() {
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // a file opened from disk may not write to the clipboard
        getSelection().selectAllChildren(code);
      }
    });
  }
}

for (const each of document.querySelectorAll(".js-only")) each.hidden = false;
setUpTheme();
document.querySelectorAll("table.sortable").forEach(setUpSorting);
setUpFilter();
setUpFolding();
document.querySelectorAll(".pictures").forEach(setUpPictures);
setUpCopying();
addEventListener("hashchange", openTarget);
openTarget();
