"use strict";
// The page of label.py --serve. What is said lives in the server: every action is sent there, is
// saved, and comes back as the state that is then shown.

const CHUNK = 200; // tiles added at a time, when the end of those that are there comes near
const TINY = 80; // px: smaller images are enlarged without blur

const find = (id) => document.getElementById(id);
const dialogs = [...document.querySelectorAll("dialog")];
const grid = find("grid");

let facts = null; // of the images: {run, classifier, names, thousandths, predicted}
let state = null; // what is said: {version, groups, corrections, gone, undo, redo}
let groupOf = []; // by cluster: its group, with its rows
let corrected = new Map(); // row -> cluster
let sorted = []; // groups, the largest first
let current = 0; // a cluster of the group that is shown
let rows = []; // of that group, in the order shown
let shown = CHUNK; // how many of them have a tile
let doubtfulFirst = false;
let stop = null; // the row that the tab key reaches
let anchor = null; // where a range began
const selected = new Set();
const tiles = new Map(); // row -> tile, of the group that is shown
const buttons = new Map(); // first cluster of a group -> its button

// --- the server ----------------------------------------------------------------------------------

function say(text, wrong = false) {
  find("message").textContent = text;
  find("message").classList.toggle("wrong", wrong);
}

async function ask(what, options) {
  try {
    const response = await fetch(what, options);
    return await response.json();
  } catch {
    return { error: "No answer: label.py has ended. Nothing more is saved." };
  }
}

let last = Promise.resolve(); // actions go one after the other

function act(action, fields = {}) {
  last = last.then(async () => {
    const body = JSON.stringify({ version: state.version, ...fields });
    const headers = { "Content-Type": "application/json" };
    const answer = await ask(action, { method: "POST", headers, body });
    if (answer.state) show(answer.state);
    if (answer.error) say(answer.error, true);
    else if (action === "undo") say("Undone.");
    else say(`Saved: ${state.undo}.`);
  });
  return last;
}

async function refresh() {
  const answer = await ask("state");
  if (answer.error) say(answer.error, true);
  else if (answer.version !== state.version) show(answer);
}

// --- groups of clusters --------------------------------------------------------------------------

const clusterOf = (row) => corrected.get(row) ?? facts.predicted[row];
const confidenceOf = (row) => (corrected.has(row) ? 1000 : facts.thousandths[row]);
const labelOf = (group) => group.name || `cluster_${group.members[0]}`;
const shownGroup = () => groupOf[current];
const plural = (count) => `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;
const thumbnail = (row) => `thumbnail/${row}`;

function show(next) {
  state = next;
  corrected = new Map(state.corrections);
  groupOf = [];
  for (const group of state.groups) {
    group.rows = [];
    for (const member of group.members) groupOf[member] = group;
  }
  for (let row = 0; row < facts.names.length; row += 1) groupOf[clusterOf(row)].rows.push(row);
  for (const group of state.groups) group.rows.sort((a, b) => confidenceOf(b) - confidenceOf(a));
  sorted = [...state.groups].sort((a, b) => b.rows.length - a.rows.length
    || a.members[0] - b.members[0]);
  if (!groupOf[current]) current = sorted[0].members[0];
  showFrame();
  showClusters();
  showGroup(false);
}

function showFrame() {
  const said = [`${plural(facts.names.length)} in ${state.groups.length} clusters`];
  if (corrected.size) said.push(`${corrected.size.toLocaleString("en")} put in their place by you`);
  if (state.gone) said.push(`${state.gone} corrected ones are no longer there`);
  find("facts").textContent = said.join(" · ");
  for (const [id, what] of [["undo", state.undo], ["redo", state.redo]]) {
    find(id).disabled = !what;
    find(id).title = what;
  }
}

function showClusters() {
  const focused = document.activeElement?.dataset?.cluster;
  find("clusters").replaceChildren(...sorted.map((group) => {
    const line = document.createElement("li");
    line.append(clusterButton(group));
    return line;
  }));
  for (const button of buttons.values()) {
    button.tabIndex = Number(button.dataset.cluster) === shownGroup().members[0] ? 0 : -1;
  }
  if (focused !== undefined) (buttons.get(Number(focused)) ?? currentButton()).focus();
}

function clusterButton(group) {
  const cluster = group.members[0];
  let button = buttons.get(cluster);
  if (!button) {
    button = document.createElement("button");
    button.type = "button";
    button.dataset.cluster = cluster;
    button.append(new Image(), ...["label", "size", "hint"].map((name) => {
      const part = document.createElement("span");
      part.className = name;
      return part;
    }));
    button.addEventListener("click", () => openGroup(cluster));
    buttons.set(cluster, button);
  }
  const [image, label, size, hint] = button.children;
  image.alt = "";
  image.loading = "lazy";
  const first = group.rows.length ? thumbnail(group.rows[0]) : "data:,";
  if (image.getAttribute("src") !== first) image.src = first;
  image.style.visibility = group.rows.length ? "" : "hidden";
  label.textContent = group.name || `Cluster ${group.members.join(" + ")}`;
  label.classList.toggle("unnamed", !group.name);
  size.textContent = group.rows.length.toLocaleString("en");
  hint.textContent = hintOf(group);
  button.setAttribute("aria-current", String(group === shownGroup()));
  return button;
}

function hintOf(group) {
  if (group.name) return `cluster ${group.members.join(" + ")}`;
  return group.suggestions.length ? suggestionText(group.suggestions[0]) : "no name yet";
}

const suggestionText = ([word, score]) => `suggested: ${word} (${score.toFixed(2)})`;
const currentButton = () => buttons.get(shownGroup().members[0]);

function openGroup(cluster) {
  current = cluster;
  shown = CHUNK;
  selected.clear();
  stop = anchor = null;
  showClusters();
  showGroup(true);
}

function openNeighbor(step) {
  const next = sorted[sorted.indexOf(shownGroup()) + step];
  if (next) openGroup(next.members[0]);
}

// --- the group that is shown ---------------------------------------------------------------------

function showGroup(fromTop) {
  const group = shownGroup();
  const before = rows;
  const focused = grid.contains(document.activeElement);
  rows = doubtfulFirst ? [...group.rows].reverse() : [...group.rows];
  const there = new Set(rows);
  for (const row of [...selected]) if (!there.has(row)) selected.delete(row);
  for (const row of [...tiles.keys()]) if (!there.has(row)) tiles.delete(row);
  if (!there.has(stop)) stop = fromTop ? null : nearest(before, there);
  if (stop !== null) shown = Math.max(shown, rows.indexOf(stop) + 1);
  find("title").textContent = `${group.name || `Cluster ${group.members.join(" + ")}`} · `
    + plural(rows.length);
  showName(group);
  find("apart").hidden = group.members.length < 2;
  find("split").disabled = rows.length < 2;
  find("join").disabled = sorted.length < 2;
  find("nothing").hidden = rows.length > 0;
  fill();
  if (fromTop) document.querySelector("main").scrollTop = 0;
  if (focused) (tiles.get(stop) ?? currentButton()).focus({ preventScroll: fromTop });
  document.title = `${labelOf(group)} – ${facts.run}`;
}

// Where the tile at hand was, the next one that is still there.
function nearest(before, there) {
  const at = before.indexOf(stop);
  if (at < 0) return null;
  return before.slice(at).find((row) => there.has(row)) ?? rows.at(-1) ?? null;
}

function showName(group) {
  const input = find("name");
  if (document.activeElement !== input) input.value = group.name;
  input.placeholder = `cluster_${group.members[0]}`;
  const others = group.suggestions.filter(([word]) => word !== group.name);
  find("suggestions").replaceChildren(...others.map((suggestion) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = suggestionText(suggestion);
    button.addEventListener("click", () => {
      rename(suggestion[0]);
      backToImages(); // the button is about to go
    });
    return button;
  }));
}

function fill() {
  watchEnd();
  grid.replaceChildren(...rows.slice(0, shown).map((row) => tiles.get(row) ?? makeTile(row)));
  if (stop === null || !tiles.has(stop)) stop = rows[0] ?? null;
  for (const [row, tile] of tiles) describe(row, tile);
  showSelection();
}

function grow() {
  if (shown >= rows.length) return;
  const from = Math.min(shown, rows.length);
  shown += CHUNK;
  grid.append(...rows.slice(from, shown).map((row) => {
    const tile = makeTile(row);
    describe(row, tile);
    return tile;
  }));
  watchEnd();
}

const endInView = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) grow();
}, { root: document.querySelector("main"), rootMargin: "1500px" });

// Observing anew asks again: the end may still be near when tiles have been added.
function watchEnd() {
  endInView.unobserve(find("more"));
  endInView.observe(find("more"));
}

function makeTile(row) {
  const tile = document.createElement("div");
  const image = new Image();
  const check = document.createElement("span");
  const mark = document.createElement("span");
  tile.className = "tile";
  tile.setAttribute("role", "option");
  tile.dataset.row = row;
  image.loading = "lazy";
  image.decoding = "async";
  image.alt = "";
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < TINY));
  image.src = thumbnail(row);
  check.className = "check";
  mark.className = "mark";
  tile.append(image, check, mark);
  tiles.set(row, tile);
  return tile;
}

function describe(row, tile) {
  const byHand = corrected.has(row);
  tile.tabIndex = row === stop ? 0 : -1;
  tile.setAttribute("aria-selected", String(selected.has(row)));
  tile.setAttribute("aria-label", `${facts.names[row]}, ${howSure(row)}`);
  tile.title = tile.getAttribute("aria-label");
  tile.lastChild.textContent = byHand ? "by you" : "";
  tile.lastChild.hidden = !byHand;
}

function howSure(row) {
  if (corrected.has(row)) return "put here by you";
  return `confidence ${(facts.thousandths[row] / 10).toFixed(1)} %`;
}

function showSelection() {
  for (const [row, tile] of tiles) tile.setAttribute("aria-selected", String(selected.has(row)));
  const chosen = targets();
  find("chosen").classList.toggle("shown", selected.size > 0);
  find("count").textContent = `${plural(selected.size)} selected`;
  find("back").disabled = !chosen.some((row) => corrected.has(row));
}

// What an action is for: the selected images, or else the one at hand.
function targets() {
  if (selected.size) return rows.filter((row) => selected.has(row));
  return grid.contains(document.activeElement) && stop !== null ? [stop] : [];
}

function toggle(row) {
  if (!selected.delete(row)) selected.add(row);
  anchor = row;
  showSelection();
}

function selectRange(from, to) {
  const [first, end] = [rows.indexOf(from), rows.indexOf(to)].sort((a, b) => a - b);
  for (const row of rows.slice(Math.max(first, 0), end + 1)) selected.add(row);
  showSelection();
}

function focusRow(row) {
  while (!tiles.has(row) && shown < rows.length) grow();
  if (stop !== null) tiles.get(stop)?.setAttribute("tabindex", "-1");
  stop = row;
  tiles.get(row).tabIndex = 0;
  tiles.get(row).focus();
}

// --- actions -------------------------------------------------------------------------------------

let asked = null; // the name that is on its way: Enter and leaving the field both ask for it

function rename(text) {
  const { members: [cluster], name: known } = shownGroup();
  const name = text.trim();
  if (name === (asked?.cluster === cluster ? asked.name : known)) return;
  asked = { cluster, name };
  act("name", asked).then(() => { asked = null; });
}

function backToImages() {
  if (stop === null) currentButton().focus();
  else focusRow(stop);
}

function move(moved = targets()) {
  if (!moved.length) return say("Select images first: space, or a click on their corner.");
  pick(`Move ${plural(moved.length)} to…`, true, ({ cluster, name }) => {
    selected.clear();
    act("move", name ? { rows: moved, cluster, name } : { rows: moved, cluster });
  });
}

function join() {
  const cluster = shownGroup().members[0];
  pick(`Join ${labelOf(shownGroup())} with…`, false, (other) => {
    act("merge", { clusters: [cluster, other.cluster] });
  });
}

function putBack() {
  const moved = targets().filter((row) => corrected.has(row));
  if (!moved.length) return say("The classifier has put it here.");
  selected.clear();
  act("take_back", { rows: moved });
}

function split() {
  say("Splitting…");
  act("split", { cluster: shownGroup().members[0] });
}

function turnOrder() {
  doubtfulFirst = !doubtfulFirst;
  find("order").setAttribute("aria-pressed", String(doubtfulFirst));
  stop = null;
  shown = CHUNK;
  showGroup(true);
}

function selectAll() {
  for (const row of rows) selected.add(row);
  showSelection();
}

function selectNone() {
  selected.clear();
  showSelection();
}

const undo = () => state.undo && act("undo");
const redo = () => state.redo && act("redo");

// --- choosing a cluster --------------------------------------------------------------------------

let choices = []; // {cluster, name, text, size, row}
let choice = 0;
let taken = null; // what to do with it

function pick(title, mayBeNew, then) {
  find("picker-title").textContent = title;
  find("picker-filter").value = "";
  taken = then;
  find("picker").dataset.mayBeNew = mayBeNew;
  showChoices();
  find("picker").showModal();
  find("picker-filter").focus();
}

function showChoices() {
  const typed = find("picker-filter").value.trim();
  const sought = typed.toLowerCase();
  choices = sorted.filter((group) => group !== shownGroup()).map((group) => ({
    cluster: group.members[0],
    text: group.name ? `${group.name} (${group.members.join(" + ")})` : labelOf(group),
    size: group.rows.length,
    row: group.rows[0],
  })).filter((each) => each.text.toLowerCase().includes(sought));
  if (find("picker").dataset.mayBeNew === "true") {
    const text = typed ? `a new cluster, ${typed}` : "a new cluster";
    choices.push({ cluster: "new", name: typed, text });
  }
  choice = 0;
  find("picker-list").replaceChildren(...choices.map(choiceLine));
  markChoice();
}

function choiceLine(each, number) {
  const line = document.createElement("li");
  line.id = `choice-${number}`;
  line.setAttribute("role", "option");
  if (each.row !== undefined) {
    const image = new Image();
    image.alt = "";
    image.src = thumbnail(each.row);
    line.append(image);
  }
  line.append(each.text);
  if (each.size !== undefined) {
    const size = document.createElement("span");
    size.className = "size";
    size.textContent = each.size.toLocaleString("en");
    line.append(size);
  }
  line.addEventListener("click", () => take(number));
  return line;
}

function markChoice() {
  [...find("picker-list").children].forEach((line, number) => {
    line.setAttribute("aria-selected", String(number === choice));
    if (number === choice) line.scrollIntoView({ block: "nearest" });
  });
  find("picker-filter").setAttribute("aria-activedescendant", `choice-${choice}`);
}

function take(number) {
  if (!choices[number]) return;
  find("picker").close();
  taken(choices[number]);
}

find("picker-filter").addEventListener("input", showChoices);
find("picker-filter").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && choices.length) {
    choice = (choice + step + choices.length) % choices.length;
    markChoice();
  } else if (event.key === "Enter") take(choice);
  else return;
  event.preventDefault();
});

// --- the image itself ----------------------------------------------------------------------------

let viewed = null;

function view(row) {
  viewed = row;
  const image = find("viewer-image");
  find("viewer-failed").hidden = true;
  image.hidden = false;
  image.src = `image/${row}`;
  image.alt = facts.names[row];
  find("viewer-name").textContent = facts.names[row];
  find("viewer-facts").textContent = `${labelOf(groupOf[clusterOf(row)])}, ${howSure(row)}`;
  const at = rows.indexOf(row);
  find("viewer-before").disabled = at <= 0;
  find("viewer-next").disabled = at < 0 || at + 1 >= rows.length;
  if (!find("viewer").open) {
    find("viewer").showModal();
    find("viewer-close").focus();
  }
}

function viewNeighbor(step) {
  const row = rows[rows.indexOf(viewed) + step];
  if (row !== undefined && rows.includes(viewed)) view(row);
}

find("viewer-image").addEventListener("load", ({ target }) => {
  target.classList.toggle("tiny", target.naturalWidth < TINY);
});
find("viewer-image").addEventListener("error", ({ target }) => {
  target.hidden = true;
  find("viewer-failed").hidden = false;
});
find("viewer-before").addEventListener("click", () => viewNeighbor(-1));
find("viewer-next").addEventListener("click", () => viewNeighbor(1));
find("viewer-move").addEventListener("click", moveViewed);
find("viewer-close").addEventListener("click", () => find("viewer").close());
find("viewer").addEventListener("close", () => {
  if (tiles.has(viewed) || rows.includes(viewed)) focusRow(viewed);
});
find("viewer").addEventListener("keydown", (event) => {
  if (find("picker").open) return;
  if (event.key === "ArrowLeft") viewNeighbor(-1);
  else if (event.key === "ArrowRight") viewNeighbor(1);
  else if (event.key === "m") moveViewed();
  else return;
  event.preventDefault();
});

function moveViewed() {
  const row = viewed;
  find("viewer").close();
  move([row]);
}

// --- keys and clicks -----------------------------------------------------------------------------

const KEYS = {
  m: () => move(), n: () => { find("name").focus(); find("name").select(); },
  u: undo, r: redo, j: join, s: split, o: turnOrder, b: putBack, a: selectAll,
  "?": () => find("keys").showModal(), "[": () => openNeighbor(-1), "]": () => openNeighbor(1),
  Escape: selectNone,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  if (dialogs.some((dialog) => dialog.open) || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

grid.addEventListener("keydown", (event) => {
  const at = rows.indexOf(stop);
  const across = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
  const ends = { Home: 0, End: rows.length - 1 };
  if (event.key in steps || event.key in ends) {
    const to = rows[event.key in ends ? ends[event.key] : at + steps[event.key]];
    if (to !== undefined) {
      const from = stop;
      focusRow(to);
      if (event.shiftKey) selectRange(from, to);
    }
  } else if (event.key === " ") toggle(stop);
  else if (event.key === "Enter") view(stop);
  else return;
  event.preventDefault();
});

grid.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  const row = Number(tile.dataset.row);
  const from = anchor;
  focusRow(row);
  if (event.shiftKey && from !== null) selectRange(from, row);
  else if (event.target.closest(".check") || event.ctrlKey || event.metaKey) toggle(row);
  else view(row);
});

find("clusters").addEventListener("keydown", (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1 }[event.key];
  if (event.key === "ArrowRight" && rows.length) focusRow(stop);
  else if (step) {
    openNeighbor(step);
    currentButton().focus();
  } else return;
  event.preventDefault();
});

find("name").addEventListener("change", ({ target }) => rename(target.value));
find("name").addEventListener("keydown", (event) => {
  const group = shownGroup();
  if (event.key === "Enter") {
    const suggestion = group.suggestions[0]?.[0] ?? "";
    if (!event.target.value.trim() && !group.name) event.target.value = suggestion;
    rename(event.target.value);
  } else if (event.key === "Escape") event.target.value = group.name;
  else return;
  event.preventDefault();
  backToImages();
});

for (const [id, action] of Object.entries({
  undo, redo, join, split, order: turnOrder, move: () => move(), back: putBack, clear: selectNone,
  apart: () => act("take_apart", { cluster: shownGroup().members[0] }),
  help: () => find("keys").showModal(), "keys-close": () => find("keys").close(),
})) find(id).addEventListener("click", action);

for (const dialog of dialogs) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop counts as the dialog itself
  });
}

window.addEventListener("focus", () => state && refresh());

(async () => {
  facts = await ask("images");
  const first = facts.error ? facts : await ask("state");
  if (first.error) return say(first.error, true);
  find("run").textContent = facts.run;
  show(first);
  openGroup(sorted[0].members[0]);
  backToImages();
  say("All is saved as it is done. ? shows the keys.");
})();
