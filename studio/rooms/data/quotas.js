// A bar a cluster: the share of its rows that stays. A bar moved by hand keeps its share; the others share one level. The arithmetic is that of
// core/select/cluster_quotas.py: whole rows, halves upwards; the page's total is what the recipe keeps.
const host = element.querySelector('.eq');
if (element.parentElement) element.parentElement.style.padding = '0';
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const put = (parent, ...nodes) => { parent.append(...nodes); return parent; };
const button = (text, act, label) => { const node = make('button', '', text); node.type = 'button'; node.onclick = act; if (label) node.title = label; return node; };
const whole = n => Math.round(n).toLocaleString('en-US'), percent = share => `${(100 * share).toFixed(1).replace(/\.0$/, '')} %`;
let sizes = [], shares = [], byHand = new Set(), level = 0.3, of = '', bars = [], ui = {}, pause = 0, dragged = false, turn = 0, sent = 0, dirty = false;  // sent: when the hand's last word left, 0 once it is answered; turn: of the hand; an answer to an earlier one is late

let counts = [];
const rowsOf = at => counts[at];
const all = () => sizes.reduce((sum, size) => sum + size, 0);
const kept = () => counts.reduce((sum, count) => sum + count, 0);
const spread = () => sizes.forEach((size, at) => { if (!byHand.has(at)) shares[at] = level; });

// Rows of each cluster: by hand, halves upwards; of the others, one level, whole rows by largest remainder.
function recount() {
  counts = sizes.map((size, at) => byHand.has(at) ? Math.floor(size * shares[at] + 0.5) : 0);
  const others = [...sizes.keys()].filter(at => !byHand.has(at)), wished = Math.floor(level * others.reduce((sum, at) => sum + sizes[at], 0) + 0.5 + 1e-9);
  for (const at of others) counts[at] = Math.floor(level * sizes[at] + 1e-9);
  const rest = wished - others.reduce((sum, at) => sum + counts[at], 0);
  others.sort((a, b) => (level * sizes[b] - counts[b]) - (level * sizes[a] - counts[a]) || a - b);
  for (const at of others.slice(0, Math.max(rest, 0))) if (counts[at] < sizes[at]) counts[at] += 1;
}

function take() {
  const value = props.value;
  if (value && (value.turn ?? 0) === turn) { sent = 0; if (dirty) { dirty = false; settle(); } }
  if (value && value.of === of && ((value.turn ?? 0) !== turn || dragged || 'saving' in host.dataset)) return;
  host.hidden = !value;
  if (!value) { host.replaceChildren(); of = ''; return; }
  const fresh = value.of !== of || value.sizes.length !== sizes.length;
  of = value.of; turn = value.turn ?? 0; sizes = value.sizes; byHand = new Set(Object.keys(value.shares).map(Number).filter(at => at < sizes.length));
  const fixed = [...byHand].reduce((sum, at) => sum + Math.floor(sizes[at] * value.shares[at] + 0.5), 0), free = sizes.reduce((sum, size, at) => sum + (byHand.has(at) ? 0 : size), 0);
  level = free ? Budget.clamp((Math.floor(value.keep * all() + 0.5) - fixed) / free, 0, 1) : level;
  shares = sizes.map((size, at) => byHand.has(at) ? value.shares[at] : level);
  if (fresh || !ui.row) build();
  paint(); host.dataset.rev = Number(host.dataset.rev) + 1;
}

function build() {
  ui = { title: make('h3'), note: make('p', 'eq-soft'), row: make('div', 'eq-bars'), told: make('div', 'eq-told') }; bars = [];
  ui.told.setAttribute('role', 'status');
  const axis = make('div', 'eq-axis'), grid = make('div', 'eq-grid'), tools = make('div', 'eq-tools'), handle = make('label', 'eq-global'), slider = make('input'), out = make('output');
  for (const mark of [0, 25, 50, 75, 100]) { const word = make('span', '', mark === 100 ? '100 %' : String(mark)), line = make('b'); word.style.bottom = line.style.bottom = mark + '%'; axis.append(word); grid.append(line); }
  Object.assign(slider, { type: 'range', min: 0, max: 100, step: 1 }); slider.oninput = () => { level = slider.value / 100; spread(); paint(); settle(); };
  ui.slider = slider; ui.out = out;
  put(handle, make('span', '', 'The other clusters'), slider, out);
  put(tools, handle, button('All alike', () => { level = Budget.clamp(kept() / all(), 0, 1); byHand.clear(); spread(); paint(); settle(); }, 'Every cluster keeps the same share; the total stays'), button('Same number each', sameNumber, 'Every cluster keeps the same number of rows, as far as it has them; the total stays'));
  ui.row.setAttribute('role', 'group'); ui.row.setAttribute('aria-label', 'Share of rows that stays, a bar a cluster'); ui.row.style.setProperty('--wide', `${sizes.length * 34}px`);
  put(ui.row, grid, ...sizes.map((size, at) => column(at)));
  const help = make('div', 'eq-help'); for (const [name, text] of [['↑ ↓', '1 %'], ['Shift ↑ ↓', '10 %'], ['← →', 'next bar'], ['0–9', 'type a share'], ['L', 'let go: as the others']]) put(help, put(make('span'), make('kbd', '', name), document.createTextNode(text)));
  host.replaceChildren(put(make('header'), ui.title, ui.note), tools, put(make('div', 'eq-board'), axis, put(make('div', 'eq-scroll'), ui.row)), ui.told, help);
}

function column(at) {
  const box = make('div', 'eq-bar'), number = make('input', 'eq-number'), track = make('div', 'eq-track'), fill = make('div', 'eq-fill'), knob = make('div', 'eq-knob'), name = button(String(at), () => letGo(at)), rows = make('div', 'q-rows');
  name.className = 'eq-name'; number.setAttribute('aria-label', `Cluster ${at}, per cent that stays`); number.inputMode = 'decimal';
  number.onchange = () => typed(at, number.value); number.onkeydown = event => { if (event.key === 'Enter') { event.preventDefault(); typed(at, number.value); track.focus(); } else if (event.key === 'Escape') { paint(); track.focus(); } };
  Object.assign(track, { tabIndex: 0 }); track.setAttribute('role', 'slider'); track.setAttribute('aria-orientation', 'vertical'); track.setAttribute('aria-label', `Cluster ${at}`); track.setAttribute('aria-valuemin', 0); track.setAttribute('aria-valuemax', 100);
  const to = event => { const area = track.getBoundingClientRect(); set(at, Math.round(100 * (area.bottom - event.clientY) / area.height) / 100); };
  track.onpointerdown = event => { if (event.button) return; track.setPointerCapture(event.pointerId); dragged = true; track.focus(); to(event); };
  track.onpointermove = event => { if (dragged && track.hasPointerCapture(event.pointerId)) to(event); };
  track.onpointerup = track.onpointercancel = () => { dragged = false; };
  track.onkeydown = event => {
    const step = event.shiftKey ? 0.1 : 0.01, next = { ArrowLeft: at - 1, ArrowRight: at + 1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'ArrowUp') set(at, shares[at] + step); else if (event.key === 'ArrowDown') set(at, shares[at] - step);
    else if (event.key === 'Home') set(at, 0); else if (event.key === 'End') set(at, 1);
    else if (next !== undefined) { if (bars[next]) bars[next].track.focus(); }
    else if (event.key.toLowerCase() === 'l') letGo(at);
    else if (/^[0-9]$/.test(event.key)) { number.focus(); number.value = event.key; }
    else return;
    event.preventDefault();
  };
  bars[at] = { box, number, track, fill, knob, name, rows };
  return put(box, number, put(track, fill, knob), name, rows);
}

function set(at, share) { shares[at] = Budget.clamp(Math.round(1e4 * share) / 1e4, 0, 1); byHand.add(at); paint(); settle(); }
function letGo(at) { if (!byHand.delete(at)) return say(`Cluster ${at} goes with the others already.`); spread(); paint(); settle(); }
function typed(at, text) {
  const value = Number(String(text).replace('%', '').replace(',', '.').trim());
  if (String(text).trim() === '' || !Number.isFinite(value) || value < 0 || value > 100) { paint(); return say(`Cluster ${at}: type a percentage between 0 and 100, not “${text}”.`); }
  set(at, value / 100);
}

// The number of rows, the same for each as far as it has them, that gives the total there is now.
function sameNumber() {
  const total = kept(); let low = 0, high = Math.max(...sizes);
  for (let turn = 0; turn < 60; turn++) { const mid = (low + high) / 2; if (sizes.reduce((sum, size) => sum + Math.min(size, mid), 0) < total) low = mid; else high = mid; }
  sizes.forEach((size, at) => { shares[at] = Math.min(Math.floor(high + 0.5), size) / size; byHand.add(at); }); paint(); settle();
}

function paint() {
  recount();
  const now = kept(), total = all(), low = [...sizes.keys()].sort((a, b) => shares[a] - shares[b]), first = low[0], last = low[low.length - 1];
  ui.title.textContent = shares[last] - shares[first] < 0.005 ? `${whole(now)} of ${whole(total)} rows stay, the same share of every cluster` : `${whole(now)} of ${whole(total)} rows stay: ${percent(shares[first])} of cluster ${first}, ${percent(shares[last])} of cluster ${last}`;
  ui.note.textContent = `${percent(now / total)} in all, ${byHand.size} of ${sizes.length} clusters by hand. Inside a cluster the order of the scores decides.`;
  ui.slider.value = Math.round(100 * level); ui.slider.style.setProperty('--at', `${100 * level}%`); ui.out.textContent = percent(level); ui.slider.disabled = byHand.size === sizes.length;
  bars.forEach((bar, at) => {
    const part = 100 * shares[at], hand = byHand.has(at), words = `${percent(shares[at])}, ${whole(rowsOf(at))} of ${whole(sizes[at])} rows${hand ? ', by hand' : ''}`;
    bar.box.classList.toggle('q-free', !hand); bar.fill.style.height = bar.knob.style.bottom = `${part}%`;
    if (document.activeElement !== bar.number) bar.number.value = part.toFixed(part < 9.95 && part % 1 > 0.05 ? 1 : 0);
    bar.track.setAttribute('aria-valuenow', part.toFixed(1)); bar.track.setAttribute('aria-valuetext', words); bar.track.title = `Cluster ${at}: ${words}`;
    bar.name.textContent = hand ? `${at} •` : String(at); bar.name.title = hand ? `Cluster ${at}: let it go with the others` : `Cluster ${at}`; bar.name.setAttribute('aria-label', bar.name.title); bar.rows.textContent = whole(rowsOf(at));
  });
  host.dataset.kept = now;
}

function say(text) { ui.told.textContent = text; }

// The server hears of it when the hand rests for a moment. If every bar is by hand, the largest cluster's share follows from the total.
function settle() {
  clearTimeout(pause); host.dataset.saving = '';
  pause = setTimeout(() => {
    if (sent && Date.now() - sent < 5000) { dirty = true; return; } // one word at a time; the newest follows
    delete host.dataset.saving;
    const now = kept(); if (now < 1) return say('One row stays at the least: lift a bar.');
    say('');
    const named = [...byHand].sort((a, b) => a - b), largest = sizes.indexOf(Math.max(...sizes));
    const told = named.length === sizes.length ? named.filter(at => at !== largest) : named;
    turn += 1; sent = Date.now();
    trigger('submit', { of, turn, shares: Object.fromEntries(told.map(at => [at, shares[at]])), keep: now / all() });
  }, 120);
}
watch('value', take); take();
