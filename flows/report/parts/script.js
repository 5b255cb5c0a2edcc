// Point at a method, or choose it, and the figures fade all others.
const by = (selector, within = document) => [...within.querySelectorAll(selector)];
const data = JSON.parse(document.getElementById("data").textContent);
let chosen = null;
function follow(method) {
  document.documentElement.classList.toggle("focus", method !== null);
  for (const part of by("[data-method]")) part.classList.toggle("on", part.dataset.method === method);
}
const methodOf = event => event.target.closest("[data-method]")?.dataset.method ?? null;
document.addEventListener("click", event => {
  if (event.target.closest("a, summary, th, .tools, .copy")) return;
  const method = methodOf(event);
  chosen = method === chosen ? null : method;
  follow(chosen);
});

// Point at a mark of a figure, or tap on it, and its values are shown.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of by("figure svg title")) {  // the browser would show a title a second later, beside ours
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
function cellOf(event) {  // of an accuracy matrix: the task learned, and the task tested
  const matrix = event.target.closest("g.matrix");
  if (!matrix) return "";
  const box = matrix.getBoundingClientRect(), values = data.matrices[matrix.dataset.method], T = values.length;
  const at = (place, start, length) => Math.min(T - 1, Math.max(0, Math.floor((place - start) / length * T)));
  const i = at(event.clientY, box.top, box.height), j = at(event.clientX, box.left, box.width), value = values[i][j];
  return value == null ? "" : `${matrix.dataset.method}, task ${j + 1} after ${i + 1}: ${value.toFixed(1)} %`;
}
document.addEventListener("pointerover", event => follow(methodOf(event) ?? chosen));
document.addEventListener("pointermove", event => {
  tip.textContent = event.target.closest("[data-tip]")?.dataset.tip ?? cellOf(event);
  tip.hidden = !tip.textContent;
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + (event.clientY > innerHeight - 60 ? -40 : 16)}px`;
});

// The leaderboard: limits leave methods out, and the others are ranked anew; a head sorts by its column.
const board = document.getElementById("board"), body = board.tBodies[0];
const heads = by("th", board), boxes = by("input[name=limit]");
const start = [...body.rows];
let column = heads.findIndex(head => head.ariaSort), down = true;
const kind = () => boxes.some(box => box.checked && box.value === "task") && data.other ? "other" : "own";
const shown = () => [...body.rows].filter(row => !row.hidden);
function value(row) {
  const cell = row.cells[column], text = kind() === "other" && "o" in cell.dataset ? cell.dataset.o : cell.dataset.v;
  if (text === undefined) return row.dataset.method;
  return text === "True" ? 1 : text === "False" ? 0 : text === "" || text === "None" ? null : Number(text);
}
function sort() {
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
  };
  body.append(...[...start].sort(order));
  heads.forEach((head, i) => i === column ? head.ariaSort = down ? "descending" : "ascending" : head.removeAttribute("aria-sort"));
}
function rank() {
  const on = boxes.filter(box => box.checked).map(box => box.value), which = data[kind()];
  board.closest("section").classList.toggle("asks-other", kind() === "other");
  for (const row of start) {
    const bound = row.classList.contains("bound"), needs = row.dataset.needs.split(" ");
    row.hidden = !(row.dataset.method in which.mean) || (!bound && on.some(limit => needs.includes(limit)));
  }
  const ranked = start.filter(row => !row.hidden && !row.classList.contains("bound")).map(row => row.dataset.method);
  ranked.sort((a, b) => which.mean[b] - which.mean[a]);
  const best = ranked[0], places = {};
  let worst = 1;  // no better rank than that of a method with a higher mean
  for (const method of ranked) {
    worst = Math.max(worst, 1 + which.beaten[method].filter(other => ranked.includes(other)).length);
    places[method] = worst;
  }
  for (const row of start) {
    const method = row.dataset.method, cell = row.querySelector(".to-best");
    if (method in places) {
      row.cells[0].dataset.v = places[method];
      row.cells[0].textContent = which.learned ? places[method] : "–";
    }
    const [text, note] = best === undefined || row.hidden ? ["–", ""] : which.differences[method][best];
    const [mean, half] = text.split(" ± ");
    cell.textContent = method === best ? (which.learned ? "best" : "highest") : mean;
    if (half && method !== best) cell.insertAdjacentHTML("beforeend", ` <small>± ${half}</small>`);
    cell.title = method === best ? "" : note;
    cell.dataset.v = method === best ? 0 : parseFloat(mean.replace("≈ ", "")) || 0;
  }
  sort();
  const lines = shown().map(row => `${row.classList.contains("bound") ? "" : row.cells[0].textContent},${data.csv.lines[row.dataset.method]}`);
  document.getElementById("csv").href = "data:text/csv;charset=utf-8," + encodeURIComponent([data.csv.head, ...lines, ""].join("\n"));
}
for (const box of boxes) box.addEventListener("change", rank);
heads.forEach((head, i) => head.querySelector("button")?.addEventListener("click", event => {
  down = i === column ? !down : event.currentTarget.dataset.first === "descending";
  column = i;
  sort();
}));
document.getElementById("columns").addEventListener("click", () => board.classList.toggle("all"));

// Copies, as text that a document or a terminal takes.
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a browser that keeps pages from files away from the clipboard
    const area = Object.assign(document.createElement("textarea"), {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const said = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => button.textContent = said, 1200);
}
document.getElementById("copy").addEventListener("click", event => {
  const seen = row => [...row.cells].filter(cell => cell.offsetParent && !cell.querySelector(".axis, .strip"));
  const text = cell => (cell.querySelector("td > button")?.textContent ?? cell.innerText).replace(/\s+/g, " ").trim();
  const lines = [board.tHead.rows[0], ...shown()].map(row => `| ${seen(row).map(text).join(" | ")} |`);
  lines.splice(1, 0, `|${" --- |".repeat(seen(board.tHead.rows[0]).length)}`);
  copy(lines.join("\n") + "\n", event.currentTarget);
});
for (const button of by("button.copy")) {
  button.addEventListener("click", () => copy(document.getElementById(button.dataset.of).textContent, button));
}

// Paper shows what is folded on the screen.
let folded = [];
addEventListener("beforeprint", () => {
  folded = by("details:not([open])");
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
});
