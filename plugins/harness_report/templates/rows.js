"use strict";
// The row browser: plain functions first, which node tests too, then the page. Texts of others go through textContent.
const LOST = 0, WON = 1, OTHER = 4, SHOWN = 50;
const [ID, OUTCOME, SLICE, LINE, PROMPT, TARGET, SAID, SCORES, WHY] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const BOTH = 2, NEITHER = 3;
const KEYS = ["lost", "won", "both", "neither", "other", "wrong"], WRONG = 5; // which is of one model alone

function words(e) {
  return e.binary ? ["lost", "won", "both right", "neither", "not compared"] : ["worse", "better", "", "", e.theirs < 0 ? "" : "same"];
}

// A place in the page: #eval, #eval:lost?slice=a&text=b&sort=id, or #eval/row
function parse(hash) {
  const text = hash.replace(/^#/, "");
  const [path, query] = text.split("?");
  const slash = path.indexOf("/");
  const decode = (s) => { try { return decodeURIComponent(s); } catch { return s; } };
  const state = { name: "", outcome: "", slice: "", text: "", sort: "change", of: "", against: "", expected: null, said: null, row: "" };
  if (slash >= 0) {
    state.name = decode(path.slice(0, slash));
    state.row = decode(path.slice(slash + 1));
  } else {
    const colon = path.lastIndexOf(":");
    const known = colon >= 0 && KEYS.includes(path.slice(colon + 1));
    state.name = decode(known ? path.slice(0, colon) : path);
    state.outcome = known ? path.slice(colon + 1) : "";
  }
  for (const [key, value] of new URLSearchParams(query || "")) if (key in state) state[key] = value;
  return state;
}

function hashOf(state) {
  const name = encodeURIComponent(state.name);
  if (state.row) return `#${name}/${encodeURIComponent(state.row)}`; // a row is the same whatever it is compared with
  const query = new URLSearchParams();
  for (const key of ["slice", "text", "of", "against"]) if (state[key]) query.set(key, state[key]);
  for (const key of ["expected", "said"]) if (state[key] !== null) query.set(key, state[key]);
  if (state.sort !== "change") query.set("sort", state.sort);
  const rest = query.toString();
  return `#${name}${state.outcome ? `:${state.outcome}` : ""}${rest ? `?${rest}` : ""}`;
}

// The numbers of the two models that are compared: those that the page compares anyway, or others of this evaluation.
function sidesOf(e, state) {
  const at = (name, other) => { const i = e.subjects.indexOf(name); return i < 0 ? other : i; };
  return [at(state.against, e.theirs), at(state.of, e.ours)];
}

// What came of every row, and how far it changed, more being better.
function compare(e, theirs, ours) {
  e.compared = e.compared || {};
  const key = `${theirs} ${ours}`;
  if (e.compared[key]) return e.compared[key];
  const own = theirs === e.theirs && ours === e.ours, changes = [], outcomes = [], counts = [0, 0, 0, 0, 0];
  e.rows.forEach((row, i) => {
    const t = theirs < 0 ? null : row[SCORES][theirs], o = row[SCORES][ours];
    const known = t !== null && o !== null && theirs !== ours;
    changes[i] = known ? (e.lower ? t - o : o - t) : 0;
    const plain = !known || !e.binary ? OTHER : o ? BOTH : NEITHER;
    outcomes[i] = own ? row[OUTCOME] : changes[i] < 0 ? LOST : changes[i] > 0 ? WON : plain;
    counts[outcomes[i]]++;
  });
  const order = e.rows.map((_, i) => i);
  if (!own) order.sort((a, b) => (outcomes[a] > WON) - (outcomes[b] > WON) || changes[a] - changes[b] || a - b);
  return (e.compared[key] = { outcomes, order, counts: own ? e.counts : counts });
}

function haystack(row) {
  return [row[ID], row[PROMPT], row[TARGET], row[SAID], row[WHY]].flat(4).filter((t) => t).join("\n").toLowerCase();
}

function filter(e, state) {
  e.hay = e.hay || e.rows.map(haystack);
  const wanted = state.text.toLowerCase().split(/\s+/).filter((w) => w);
  const outcome = KEYS.indexOf(state.outcome);
  const [theirs, ours] = sidesOf(e, state), { outcomes, order } = compare(e, theirs, ours);
  const found = order.filter((i) => {
    const row = e.rows[i];
    if (outcome === WRONG ? row[SCORES][ours] !== Number(e.lower) : outcome >= 0 && outcomes[i] !== outcome) return false;
    if (state.slice && row[SLICE] !== state.slice) return false;
    if (state.expected !== null && (row[TARGET] || "").trim() !== state.expected) return false;
    if (state.said !== null && (row[SAID][ours] || "").trim() !== state.said) return false;
    return wanted.every((w) => e.hay[i].includes(w));
  });
  if (state.sort === "id") {
    const collator = new Intl.Collator("en", { numeric: true });
    found.sort((a, b) => collator.compare(e.rows[a][ID], e.rows[b][ID]));
  }
  return found; // numbers of rows
}

// JSON as a person reads it; any other text as it stands.
function pretty(text) {
  try { return /^\s*[[{]/.test(text) ? JSON.stringify(JSON.parse(text), null, 2) : text; } catch { return text; }
}

// An answer in parts, marked where the expected one differs; what was said before is not said again.
function explained(e, row, side) {
  const said = (row[SAID][side] || "").trim(), target = (row[TARGET] || "").trim(), before = row[SAID].findIndex((s) => (s || "").trim() === said);
  if (!said) return null;
  if (said === target) return [["the same as expected", false]];
  if (before < side) return [[`the same as ${e.subjects[before]}`, false]];
  if (pretty(said) !== said) return [[pretty(said), false]];
  const parts = target ? diff(said, target)[0] : [];
  return parts.some(([, marked]) => marked) ? parts : null;
}

// Both answers in [text, whether the other lacks it], where they share a third of their words: the page's own rule.
function diff(one, other) {
  [one, other] = [one.trim(), other.trim()];
  const a = one.split(/\s+/).slice(0, 300), b = other.split(/\s+/).slice(0, 300);
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  if (one === other || a.length === 300 || b.length === 300 || table[0][0] * 3 < Math.max(a.length, b.length)) return [[[one, false]], [[other, false]]];
  const sides = [[], []];
  const put = (side, word, marked) => {
    const last = sides[side].at(-1);
    if (last && last[1] === marked) last[0] += ` ${word}`;
    else sides[side].push([word, marked]);
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { put(0, a[i++], false); put(1, b[j++], false); }
    else if (j >= b.length || (i < a.length && table[i + 1][j] >= table[i][j + 1])) put(0, a[i++], true);
    else put(1, b[j++], true);
  }
  return sides;
}

function page(doc, win, data) {
  const $ = (id) => doc.getElementById(id);
  let state = parse(""), at = -1, from = 0, found = [], opened = "";
  const make = (tag, text, name) => {
    const node = doc.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const current = () => data.find((e) => e.name === state.name) || data[0];
  const button = (key, text, pressed, act) => {
    const node = make("button", text);
    node.type = "button";
    node.dataset.key = key;
    node.setAttribute("aria-pressed", String(pressed));
    node.addEventListener("click", act);
    return node;
  };
  const choose = (changes) => { state = { ...state, row: "", ...changes }; from = 0; at = -1; opened = ""; draw(); win.history.replaceState(null, "", hashOf(state)); };

  function answer(e, row, side, parts, whole) {
    const node = make("span", undefined, "answer said");
    node.dir = "auto";
    const score = row[SCORES][side], said = row[SAID][side];
    if (e.binary && score !== null) node.append(make("span", score ? "✓" : "✗", `mark ${score ? "right" : "wrong"}`));
    else if (score !== null) node.append(make("span", String(score), "mark n"));
    for (const [text, marked] of parts || [[whole ? said : (said || "").trim(), false]]) {
      if (text) node.append(marked ? make("mark", text) : text, " ");
    }
    if (said === null && score === null) node.append("–");
    return node;
  }

  function sides(e, row) {
    const [t, o] = sidesOf(e, state);
    return t >= 0 && row[SAID][t] && row[SAID][o] ? diff(row[SAID][t], row[SAID][o]) : [null, null];
  }

  function line(e, row, outcome_, number) {
    const tr = make("tr");
    tr.tabIndex = -1;
    const cell = (text, name) => { const td = make("td", text, name); td.dir = "auto"; tr.append(td); return td; };
    const outcome = make("td", undefined, KEYS[outcome_]);
    const fold = make("button", words(e)[outcome_] || "view", "plain");
    fold.type = "button";
    fold.dataset.key = `row ${row[ID]}`;
    fold.setAttribute("aria-expanded", String(opened === row[ID]));
    fold.setAttribute("aria-label", `${words(e)[outcome_] || "view"} ${row[ID]}`);
    outcome.append(fold);
    tr.append(outcome);
    cell(row[ID], "id slice one");
    cell(row[SLICE], "slice one");
    cell(row[LINE], "prompt one");
    const [theirs, ours] = sides(e, row);
    const [t, o] = sidesOf(e, state);
    for (const [side, parts, name] of [[t, theirs, "theirs"], [o, ours, "ours"]]) {
      const td = make("td", undefined, name);
      if (side >= 0) { td.dataset.who = e.subjects[side]; td.append(answer(e, row, side, parts)); }
      tr.append(td);
    }
    if (number === at) tr.classList.add("at");
    tr.addEventListener("click", () => { if (String(win.getSelection())) return; at = number; toggle(row); });
    return tr;
  }

  function detail(e, row) {
    const tr = make("tr", undefined, "open"), td = make("td"), list = make("dl", undefined, "detail");
    td.colSpan = 6;
    const add = (name, node) => { const dd = make("dd"); dd.dir = "auto"; dd.tabIndex = 0; dd.append(node); list.append(make("dt", name), dd); };
    if (Array.isArray(row[PROMPT])) for (const [role, text] of row[PROMPT]) add(role, pretty(text));
    else add("prompt", pretty(row[PROMPT]) || "–");
    if (row[TARGET]) add("expected", pretty(row[TARGET]));
    const [theirs, ours] = sides(e, row), [t, o] = sidesOf(e, state);
    e.subjects.forEach((name, side) => {
      add(name, answer(e, row, side, explained(e, row, side) || (side === o ? ours : side === t ? theirs : null), true));
      for (const [key, text] of (row[WHY] || [])[side] || []) list.lastChild.append(make("span", `${key}: ${pretty(text)}`, "why"));
    });
    const link = make("a", hashOf({ ...state, row: row[ID], name: e.name }));
    link.href = link.textContent;
    add("link", link);
    td.append(list);
    tr.append(td);
    return tr;
  }

  function toggle(row) {
    opened = opened === row[ID] ? "" : row[ID];
    state = { ...state, row: opened };
    draw();
    win.history.replaceState(null, "", hashOf(state));
  }

  // Draw anew, and leave the focus where it was, on what was made anew.
  function draw() {
    const key = doc.activeElement && doc.activeElement.dataset ? doc.activeElement.dataset.key : "";
    drawAll();
    const again = key && [...$("rows").querySelectorAll("button")].find((node) => node.dataset.key === key);
    if (again) again.focus({ preventScroll: true });
  }

  function drawAll() {
    const e = current();
    state.name = e.name;
    found = filter(e, state);
    $("evals").replaceChildren(...data.map((d) => button(`eval ${d.name}`, d.name, d === e, () => choose({ ...parse(""), name: d.name }))));
    const [t, o] = sidesOf(e, state), compared = compare(e, t, o);
    const counts = compared.counts.map((n, i) => [n, words(e)[i], i]).filter(([n, word]) => n && word);
    $("outcomes").replaceChildren(button("all", `all ${e.total.toLocaleString("en")}`, !state.outcome, () => choose({ outcome: "" })),
      ...counts.concat(e.wrong.length ? [[e.wrong[o], `wrong for ${e.subjects[o]}`, WRONG]] : []).map(([n, word, i]) => button(`outcome ${i}`, `${word} ${n.toLocaleString("en")}`, state.outcome === KEYS[i], () => choose({ outcome: KEYS[i] }))));
    if ($("find").value !== state.text) $("find").value = state.text;
    const slices = [...new Set(e.rows.map((r) => r[SLICE]))].filter((s) => s).sort();
    $("slice").replaceChildren(...["", ...slices].map((s) => { const o = make("option", s || "every slice"); o.value = s; return o; }));
    $("slice").value = state.slice;
    $("slice").hidden = !slices.length;
    const table = $("body").parentNode; // columns that are empty in all rows say nothing
    table.classList.toggle("noslice", !slices.length);
    table.classList.toggle("noprompt", !e.rows.some((r) => r[LINE]));
    table.classList.toggle("alone", t < 0);
    $("sort").value = state.sort;
    for (const [id, side] of [["against", t], ["of", o]]) {
      $(id).replaceChildren(...e.subjects.map((s) => make("option", s)));
      $(id).value = side < 0 ? "" : e.subjects[side];
    }
    $("theirs").textContent = t < 0 ? "" : e.subjects[t];
    $("ours").textContent = e.subjects[o];
    const rows = found.slice(from, from + SHOWN), nodes = [];
    rows.forEach((n, i) => { const row = e.rows[n]; nodes.push(line(e, row, compared.outcomes[n], from + i)); if (row[ID] === opened) nodes.push(detail(e, row)); });
    $("body").replaceChildren(...nodes);
    const total = e.rows.length < e.total ? `${e.rows.length.toLocaleString("en")} of ${e.total.toLocaleString("en")} in ${e.name} are shown` : `${e.total.toLocaleString("en")} in ${e.name}`;
    $("count").textContent = found.length ? `rows ${from + 1} to ${from + rows.length} of ${found.length.toLocaleString("en")} (${total})` : `no row (${total})`;
    $("previous").disabled = from === 0;
    $("next").disabled = from + SHOWN >= found.length;
  }

  function turn(step) { from = Math.max(0, from + step * SHOWN); at = -1; draw(); }

  function move(step) {
    at = Math.min(found.length - 1, Math.max(0, at < 0 ? from : at + step));
    from = Math.floor(at / SHOWN) * SHOWN;
    draw();
    const row = $("body").querySelector(".at");
    if (row) { row.focus({ preventScroll: true }); row.scrollIntoView({ block: "nearest" }); }
  }

  function go() {
    const wanted = parse(win.location.hash), e = data.find((d) => d.name === wanted.name);
    if (!e) return;
    state = wanted;
    opened = wanted.row;
    at = opened ? Math.max(0, filter(e, state).findIndex((i) => e.rows[i][ID] === opened)) : -1;
    from = at < 0 ? 0 : Math.floor(at / SHOWN) * SHOWN;
    draw();
    $("rows").scrollIntoView();
  }

  const tally = $("tally");
  if (tally) {
    const gates = [...doc.querySelectorAll("#sec-gates .gates tbody tr")], search = tally.querySelector("input");
    const show = () => {
      const outcome = tally.querySelector("[aria-pressed=true]").dataset.outcome;
      const wanted = search.value.toLowerCase().split(/\s+/).filter((w) => w);
      for (const tr of gates) {
        const text = tr.textContent.toLowerCase();
        tr.hidden = (outcome && !tr.querySelector(`.v.${outcome}`)) || !wanted.every((w) => text.includes(w));
      }
      if (outcome || wanted.length) for (const fold of doc.querySelectorAll("#sec-gates > .fold")) fold.open = true;
    };
    tally.hidden = false;
    search.addEventListener("input", show);
    for (const one of tally.querySelectorAll("button")) one.addEventListener("click", () => {
      for (const other of tally.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === one));
      show();
    });
  }
  for (const button of doc.querySelectorAll(".copy")) {
    button.hidden = !win.navigator.clipboard;
    button.addEventListener("click", () => win.navigator.clipboard.writeText(button.previousElementSibling.textContent).then(() => { button.textContent = "Copied"; }, () => {}));
  }
  $("find").addEventListener("input", (event) => choose({ text: event.target.value }));
  $("slice").addEventListener("change", (event) => choose({ slice: event.target.value }));
  for (const id of ["of", "against"]) $(id).addEventListener("change", (event) => choose({ [id]: event.target.value, outcome: "" }));
  $("sort").addEventListener("change", (event) => choose({ sort: event.target.value }));
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  doc.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing) { if (event.key === "Escape") event.target.blur(); return; }
    if (event.key === "o") { const folds = [...doc.querySelectorAll("details")], open = folds.some((f) => !f.open); for (const f of folds) f.open = open; }
    if (event.key === "/") { event.preventDefault(); $("rows").scrollIntoView(); $("find").focus(); }
    if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
    if (event.key === "n" && !$("next").disabled) turn(1);
    if (event.key === "p" && !$("previous").disabled) turn(-1);
    if (event.key === "Escape" && opened) choose({ outcome: state.outcome });
    if (event.key === "Enter" && at >= 0 && event.target.tagName === "TR") toggle(current().rows[found[at]]);
  });
  win.addEventListener("hashchange", go);
  doc.addEventListener("click", (event) => {
    const link = event.target.closest ? event.target.closest("a[href^='#']") : null;
    if (link && link.hash === win.location.hash) go();
  });
  draw();
  if (win.location.hash) go();
}

if (typeof module !== "undefined") module.exports = { parse, hashOf, filter, diff, pretty, explained };
else page(document, window, JSON.parse(document.getElementById("data").textContent));
