// The equaliser: one component for all bars. Values come from the server as `props.value` (see equaliser.py); text is only ever set as textContent.
// The budget is held layer by layer; a bar shows a block (the mean of its layers) or, unfolded, one layer. Only a window of the bars is drawn.
const host = element.querySelector('.eq');
if (element.parentElement) element.parentElement.style.padding = '0';
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const put = (parent, ...nodes) => { parent.append(...nodes); return parent; };
const button = (text, act, label) => { const node = make('button', '', text); node.type = 'button'; node.onclick = act; if (label) { node.title = label; node.setAttribute('aria-label', label); } return node; };
const SVG = 'http://www.w3.org/2000/svg';
const drawn = (tag, attributes, ...inside) => { const node = document.createElementNS(SVG, tag); for (const name in attributes) node.setAttribute(name, attributes[name]); node.append(...inside); return node; };
const lockIcon = () => drawn('svg', { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, drawn('path', { fill: 'none', stroke: 'currentColor', 'stroke-width': '1.7' }));
const SHUT = 'M3.5 7.5h9v6.5h-9z M5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5', OPEN = 'M3.5 7.5h9v6.5h-9z M5.5 7.5V4.5a2.5 2.5 0 0 1 5 -.5';
const WINDOW = 200; // bars drawn at once
const COLLAPSE = 0.9; // a layer that keeps less than a tenth is said aloud

let model = null, shares = {}, locked = new Set(), sizes = {}, blockOf = {}, members = {}, parts = {};
let units = [], bars = {}, first = 0, unfolded = new Set(), scope = 'all', solo = null, drawing = false, base = null, asking = false, again = false, ghost = null;
const percent = share => `${(100 * share).toFixed(1).replace(/\.0$/, '')} %`;
const whole = n => Math.round(n).toLocaleString('en-US');
const quality = x => x == null ? '–' : x < 1e6 ? x.toLocaleString('en-US', { maximumFractionDigits: x < 100 ? 2 : 0, minimumFractionDigits: x < 100 ? 2 : 0 }) : x.toExponential(1).replace('e+', ' × 10^');
const millions = n => n >= 1e9 ? `${(n / 1e9).toFixed(2)} B` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e4 ? `${(n / 1e3).toFixed(0)} k` : whole(n);
const bytes = n => n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} MB` : `${(n / 1e3).toFixed(0)} kB`;
const metricOf = () => { const known = curvesNow() || model.curves; return known ? known.metric : 'quality'; };
const mean = (names, of = shares) => { let gone = 0, all = 0; for (const name of names) { gone += of[name] * sizes[name]; all += sizes[name]; } return all ? gone / all : 0; };
const shut = names => names.every(name => locked.has(name));
const pick = (of, names) => Object.fromEntries(names.map(name => [name, of[name]]));
const barOf = block => { const names = members[block.name]; return { name: block.name, label: block.label, title: block.title, names }; };

function listUnits() {
  units = [];
  for (const block of model.blocks) {
    if (!unfolded.has(block.name)) { units.push(barOf(block)); continue; }
    for (const part of members[block.name]) units.push({ name: part, label: parts[part].label, title: `${block.title} ${parts[part].label}`, names: [part], block });
  }
  first = Budget.clamp(first, 0, Math.max(units.length - 1, 0));
  first -= first % WINDOW;
}

function build() {
  bars = {}; host.replaceChildren();
  if (!model || !model.parts.length) { host.append(make('p', 'eq-empty', model && model.empty || 'Open a model first.')); return; }
  host.append(gauge(), tools(), board(), said(), panels());
  host.dataset.units = units.length;
}

function said() {
  ui.told = make('div', 'eq-told'); ui.told.setAttribute('role', 'status');
  ui.guards = make('ul', 'eq-guards');
  return put(make('div'), ui.told, ui.guards, help());
}

function help() {
  const line = make('div', 'eq-help');
  const keys = [['↑ ↓', '1 %'], ['Shift ↑ ↓', '10 %'], ['← →', 'next bar'], ['0–9', 'type a share'], ['L', 'lock'], ['S', 'solo'], ['U', 'unfold'], ['Space', 'A / B'], ['Shift + drag', 'draw across the bars']];
  for (const [key, text] of keys) line.append(put(make('span'), make('kbd', '', key), document.createTextNode(text)));
  if (curvesNow()) line.append(make('span', '', `Cost: what a bar alone adds to the log of the ${metricOf()}.`));
  return line;
}

// ---- the board of bars

function board() {
  const axis = make('div', 'eq-axis'), grid = make('div', 'eq-grid'), row = make('div', 'eq-bars');
  for (const level of [0, 25, 50, 75, 100]) {
    const mark = make('span', '', level === 100 ? '100 %' : String(level)), line = make('b'); mark.style.bottom = line.style.bottom = level + '%';
    axis.append(mark); grid.append(line);
  }
  ui.mean = make('b', 'mean'); grid.append(ui.mean); axis.append(make('i', '', curvesNow() ? 'cost' : ''));
  row.setAttribute('role', 'group'); row.setAttribute('aria-label', 'Share of weights to remove, a bar a block or layer');
  ui.row = row; ui.grid = grid; ui.pager = make('div', 'eq-pager');
  fillBars();
  return put(make('div'), put(make('div', 'eq-board'), axis, put(make('div', 'eq-scroll'), row)), ui.pager);
}

function fillBars() {
  bars = {};
  const shown = units.slice(first, first + WINDOW);
  ui.row.replaceChildren(ui.grid);
  ui.row.style.setProperty('--wide', `${shown.length * (shown.length > 16 ? 34 : 40)}px`);
  shown.forEach((unit, index) => ui.row.append(column(unit, index)));
  const left = button('‹', () => page(-1), 'Earlier bars'), right = button('›', () => page(1), 'Later bars');
  left.disabled = first === 0; right.disabled = first + WINDOW >= units.length;
  const where = make('span', '', `Bars ${whole(first + 1)} to ${whole(first + shown.length)} of ${whole(units.length)}. All of them count in the figures.`);
  ui.pager.replaceChildren(...(units.length > WINDOW ? [left, where, right] : []));
}

function page(by, focus) {
  const next = first + by * WINDOW;
  if (next < 0 || next >= units.length) return;
  first = next; fillBars(); paint();
  if (focus) { const shown = Object.values(bars); shown[by > 0 ? 0 : shown.length - 1].track.focus(); }
}

function column(unit, index) {
  const box = make('div', unit.block ? 'eq-bar layer' : 'eq-bar'), number = make('input', 'eq-number'), track = make('div', 'eq-track'), fill = make('div', 'eq-fill'), span = make('div', 'eq-span');
  const knob = make('div', 'eq-knob'), was = make('div', 'eq-ghost'), idea = make('div', 'eq-idea'), flag = make('div', 'eq-flag');
  const lock = button('', () => toggle(unit)), icon = lockIcon(), cost = make('div'), name = button(unit.label, () => unfold(unit));
  number.inputMode = 'decimal'; number.tabIndex = -1; number.setAttribute('aria-label', `${unit.title}: percent to remove`);
  // What differs from what stood there when the field was entered counts when it is left; Escape puts that back.
  let before = '';
  number.onfocus = () => { before = number.value; number.select(); };
  number.onblur = () => { if (number.isConnected && number.value !== before) typed(unit, number.value); };
  number.onkeydown = event => { event.stopPropagation(); if (event.key === 'Escape') number.value = before; if (event.key === 'Enter' || event.key === 'Escape') { track.focus(); event.preventDefault(); } };
  lock.className = 'eq-lock'; lock.tabIndex = -1; lock.append(icon);
  name.className = 'eq-name'; name.tabIndex = -1; name.title = unit.block ? `${unit.title}: fold the block` : `${unit.title}: unfold into its layers`; name.setAttribute('aria-label', name.title);
  track.tabIndex = index ? -1 : 0; track.setAttribute('role', 'slider'); track.setAttribute('aria-orientation', 'vertical'); track.setAttribute('aria-label', unit.title);
  track.setAttribute('aria-valuemin', 0); track.setAttribute('aria-valuemax', Math.round(100 * model.highest)); track.dataset.unit = unit.name;
  track.onkeydown = event => key(event, unit, index); track.onpointerdown = event => drag(event, unit);
  track.onfocus = () => { for (const other of Object.values(bars)) other.track.tabIndex = other.track === track ? 0 : -1; };
  bars[unit.name] = { unit, box, number, track, fill, span, knob, was, idea, flag, lock, path: icon.firstChild, cost, title: unit.title };
  return put(box, number, put(track, fill, span, knob, was, idea, flag), lock, name, put(make('div', 'eq-cost'), cost));
}

// ---- painting: everything that a change of the budget changes

const costOf = unit => {
  const curves = curvesNow(), groups = groupsOf();
  if (!curves) return 0;
  let sum = 0;
  for (const [name, share] of groups ? [[unit.name, reached(unit.name, mean(unit.names))]] : unit.names.map(name => [name, shares[name]])) if (name in curves.cost) sum += Budget.costAt(curves, name, share);
  return Math.max(0, Budget.combined(curves, sum));
};

function paint() {
  if (!model || !model.parts.length) return;
  const now = Budget.estimate(model.curves, sizes, shares), costs = {};
  for (const name in bars) costs[name] = costOf(bars[name].unit);
  const highest = Math.max(...Object.values(costs), 0.02);
  for (const name in bars) paintBar(bars[name], costs[name], highest);
  const inScope = scopeParts(), at = mean(inScope);
  if (base === null) ui.slider.value = 100 * at;
  ui.slider.style.setProperty('--at', `${100 * at / model.highest}%`);
  ui.slider.setAttribute('aria-valuetext', `remove ${percent(at)} of the weights`);
  ui.output.textContent = percent(at); ui.mean.style.bottom = `${100 * now.sparsity}%`;
  ui.undo.disabled = !model.undo; ui.redo.disabled = !model.redo;
  ui.turn.textContent = model.side; ui.turn.setAttribute('aria-pressed', model.side === 'B');
  figures(now); ui.side.hidden = !front || !!groupsOf(); paintFrontier(now); guards();
}

function paintBar(bar, cost, highest) {
  const { names } = bar.unit, share = mean(names), closed = shut(names), text = percent(share);
  const low = Math.min(...names.map(name => shares[name])), high = Math.max(...names.map(name => shares[name])), mixed = high - low > 5e-4;
  bar.fill.style.height = bar.knob.style.bottom = `${100 * share}%`;
  bar.box.classList.toggle('locked', closed); bar.box.classList.toggle('quiet', !!solo && solo !== bar.unit.name);
  bar.span.hidden = !mixed; bar.span.style.bottom = `${100 * low}%`; bar.span.style.height = `${100 * (high - low)}%`;
  if (document.activeElement !== bar.number) bar.number.value = (100 * share).toFixed(1).replace(/\.0$/, '');
  bar.track.setAttribute('aria-valuenow', Math.round(100 * share));
  bar.track.setAttribute('aria-valuetext', `remove ${text}${mixed ? `, its layers ${percent(low)} to ${percent(high)}` : ''}${closed ? ', locked' : ''}`);
  bar.lock.setAttribute('aria-pressed', closed); bar.lock.setAttribute('aria-label', `Lock ${bar.title}`); bar.path.setAttribute('d', closed ? SHUT : OPEN);
  bar.cost.style.height = `${100 * cost / highest}%`; bar.cost.parentNode.title = !curvesNow() ? '' : `${bar.title} alone: ${metricOf()} × ${Math.exp(cost).toFixed(3)}`;
  const was = model.measured && !groupsOf() ? mean(names, model.measured.shares) : null; bar.was.hidden = was == null; bar.was.style.bottom = `${100 * (was || 0)}%`;
  bar.idea.hidden = !ghost; if (ghost) bar.idea.style.bottom = `${100 * mean(names, ghost.shares)}%`;
  const spared = !groupsOf() && names.some(name => parts[name].spared && shares[name] > 0);
  bar.flag.textContent = high >= COLLAPSE ? '!' : spared ? '◆' : ''; bar.flag.hidden = !bar.flag.textContent;
}

// Sentences that the present budget calls for; each names the bars that it is about.
function guards() {
  const told = [], named = names => `${names.slice(0, 3).join(', ')}${names.length > 3 ? ` and ${names.length - 3} more` : ''}`;
  if (groupsOf()) return tellGuards(unitGuards(named));
  const empty = Object.keys(shares).filter(name => shares[name] >= COLLAPSE);
  if (empty.length) told.push(['!', `Layer collapse: ${named(empty)} would keep a tenth of the weights or less, far beyond what curves know.`]);
  const precious = Object.keys(shares).filter(name => parts[name].spared && shares[name] > 0);
  if (precious.length) told.push(['◆', `${named(precious)}: a super weight lies there. Lock the bar at 0 %, or let the recipe say protect: [super_weights].`]);
  if (Object.values(shares).some(share => share > 0)) told.push(['·', 'Single weights set to zero give no speed-up on this machine, and the file stays as large.']);
  tellGuards(told);
}

function tellGuards(told) {
  ui.guards.replaceChildren(...told.map(([mark, text]) => put(make('li', mark === '·' ? 'note' : ''), make('b', '', mark), document.createTextNode(text))));
}
