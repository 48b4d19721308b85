"use strict";

// The theme: the system's, until the reader chooses.
const root = document.documentElement;
const themeButton = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const remembered = { get() { try { return localStorage.getItem("theme"); } catch { return null; } },
                     set(value) { try { localStorage.setItem("theme", value); } catch { /* a file may have no storage */ } } };
const isDark = () => (root.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";
const showTheme = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; };
if (remembered.get()) root.dataset.theme = remembered.get();
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remembered.set(root.dataset.theme);
  showTheme();
});
systemDark.addEventListener("change", showTheme);
themeButton.hidden = false;
showTheme();

// Values of a curve, under the pointer or by the arrow keys.
const SVG = "http://www.w3.org/2000/svg";
for (const drawing of document.querySelectorAll(".chart svg")) {
  const scale = Object.fromEntries(Object.entries(drawing.dataset).map(([name, value]) => [name, Number(value)]));
  const points = [...drawing.querySelectorAll(".curve")].flatMap((line) => [...line.points].map(({ x, y }) => ({ x, y })));
  const readout = drawing.parentElement.querySelector(".readout");
  const told = readout.textContent;
  const cross = document.createElementNS(SVG, "line");
  const spot = document.createElementNS(SVG, "circle");
  cross.setAttribute("class", "cross");
  cross.setAttribute("y1", scale.top);
  cross.setAttribute("y2", scale.bottom);
  spot.setAttribute("class", "spot");
  spot.setAttribute("r", 3);
  let at = -1;
  const show = (index) => {
    at = Math.max(0, Math.min(points.length - 1, index));
    const { x, y } = points[at];
    const step = Math.round((x - scale.left) / (scale.right - scale.left) * scale.steps);
    const value = scale.high - (y - scale.top) / (scale.bottom - scale.top) * (scale.high - scale.low);
    readout.textContent = `${value.toPrecision(3)} at step ${step.toLocaleString("en")}`;
    cross.setAttribute("x1", x);
    cross.setAttribute("x2", x);
    spot.setAttribute("cx", x);
    spot.setAttribute("cy", y);
    drawing.append(cross, spot);
  };
  const hide = () => { cross.remove(); spot.remove(); readout.textContent = told; at = -1; };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * drawing.viewBox.baseVal.width;
    show(points.reduce((best, point, index) => Math.abs(point.x - x) < Math.abs(points[best].x - x) ? index : best, 0));
  });
  drawing.addEventListener("pointerleave", hide);
  drawing.addEventListener("blur", hide);
  drawing.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at < 0 ? points.length - 1 : at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

// Runs by words of their row.
const search = document.getElementById("search");
search.parentElement.hidden = false;
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll(".plan tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
});

// A scoreboard: languages by words of their row, and rows in the order of a column.
const board = document.getElementById("board");
if (board) {
  const body = board.tBodies[0];
  const find = document.getElementById("find-language");
  const count = document.getElementById("languages-found");
  find.parentElement.hidden = false;
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    count.textContent = `${shown} of ${body.rows.length}`;
  };
  find.addEventListener("input", filter);
  filter();
  const heads = [...board.tHead.rows[0].cells];
  const given = [...body.rows];
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const isText = head.classList.contains("word");
    const first = isText ? "ascending" : "descending";
    const second = isText ? "descending" : "ascending";
    const order = { [first]: second, [second]: null }[head.ariaSort] ?? (head.ariaSort ? null : first);
    heads.forEach((other) => { other.ariaSort = null; });
    head.ariaSort = order;
    if (!order) { body.append(...given); return; }
    const sign = order === "ascending" ? 1 : -1;
    const text = (row) => row.cells[index].textContent;
    const compare = (one, other) => {
      if (isText) return sign * text(one).localeCompare(text(other), "en");
      const [a, b] = [parseFloat(text(one)), parseFloat(text(other))];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return sign * (a - b);
    };
    body.append(...given.toSorted(compare));
  }));
}

// A link to a run shows it, whatever is folded or filtered.
const reveal = () => {
  const row = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
  if (row?.hidden) { search.value = ""; search.dispatchEvent(new Event("input")); row.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
reveal();
root.dataset.ready = "";
