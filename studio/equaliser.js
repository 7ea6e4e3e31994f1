// The equaliser: one component for all bars. Values come from the server as `props.value` (see equaliser.py); text is only ever set as textContent.
const host = element.querySelector('.eq');
if (element.parentElement) element.parentElement.style.padding = '0';
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const put = (parent, ...nodes) => { parent.append(...nodes); return parent; };
const button = (text, act, label) => { const node = make('button', '', text); node.type = 'button'; node.onclick = act; if (label) { node.title = label; node.setAttribute('aria-label', label); } return node; };
const SVG = 'http://www.w3.org/2000/svg';
const lockIcon = () => { const svg = document.createElementNS(SVG, 'svg'), path = document.createElementNS(SVG, 'path'); svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true'); path.setAttribute('fill', 'none'); path.setAttribute('stroke', 'currentColor'); path.setAttribute('stroke-width', '1.7');
  svg.append(path); return svg; };
const SHUT = 'M3.5 7.5h9v6.5h-9z M5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5', OPEN = 'M3.5 7.5h9v6.5h-9z M5.5 7.5V4.5a2.5 2.5 0 0 1 5 -.5';

let model = null, shares = {}, locked = new Set(), sizes = {}, bars = {}, parts = {}, base = null, asking = false, again = false;
const percent = share => `${(100 * share).toFixed(1).replace(/\.0$/, '')} %`;
const whole = n => Math.round(n).toLocaleString('en-US');
const quality = x => x == null ? '–' : x < 1e6 ? x.toLocaleString('en-US', { maximumFractionDigits: x < 100 ? 2 : 0, minimumFractionDigits: x < 100 ? 2 : 0 }) : x.toExponential(1).replace('e+', ' × 10^');
const millions = n => n >= 1e9 ? `${(n / 1e9).toFixed(2)} B` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e4 ? `${(n / 1e3).toFixed(0)} k` : whole(n);
const bytes = n => n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} MB` : `${(n / 1e3).toFixed(0)} kB`;
const close = (a, b) => Object.keys(a).every(unit => unit in sizes) && Object.keys(sizes).every(unit => Math.abs((a[unit] || 0) - (b[unit] || 0)) < 5e-4);

function figure(key, label, lead) {
  const box = make('div', lead ? 'eq-figure lead' : 'eq-figure'), term = make('dt', '', label), value = make('dd'), under = make('dd', 'under');
  parts[key] = value; parts[key + 'Under'] = under; parts[key + 'Term'] = term;
  return put(box, term, value, under);
}

function build() {
  host.replaceChildren(); bars = {}; parts = {};
  if (!model || !model.units.length) { host.append(make('p', 'eq-empty', model && model.empty || 'Open a model first.')); return; }
  const figures = put(make('dl', 'eq-figures'), figure('quality', `Predicted ${metricOf()}`, true), figure('measured', 'Measured'), figure('sparsity', 'Sparsity of the blocks'),
    figure('kept', 'Parameters kept'), figure('bytes', 'Bytes that are not zero'));
  parts.qualityTerm.append(make('span', 'badge badge-estimate', 'estimate')); parts.measuredTerm.append(make('span', 'badge badge-measured', 'measured'));
  const slider = make('input'); slider.type = 'range'; slider.min = 0; slider.max = 100 * model.highest; slider.step = 0.5;
  slider.setAttribute('aria-label', 'All blocks: sparsity of all unlocked bars, moved together');
  slider.oninput = () => { base ??= { ...shares }; adopt(Budget.redistribute(base, sizes, slider.value / 100, [...locked], model.highest)); };
  slider.onchange = () => { base = null; commit(); };
  parts.slider = slider; parts.output = make('output');
  parts.undo = button('Undo', () => step('undo'), 'Undo (Ctrl+Z)'); parts.redo = button('Redo', () => step('redo'), 'Redo (Ctrl+Shift+Z)');
  const tools = put(make('div', 'eq-tools'), put(make('label', 'eq-global'), make('span', '', 'All blocks'), slider, parts.output),
    button('Uniform 20 %', () => preset(0.2)), button('Uniform 50 %', () => preset(0.5)), button('Reset', () => preset(0), 'Set every unlocked bar to 0 %'), parts.undo, parts.redo);
  const axis = make('div', 'eq-axis'), grid = make('div', 'eq-grid'), row = make('div', 'eq-bars');
  for (const level of [0, 25, 50, 75, 100]) {
    const mark = make('span', '', level === 100 ? '100 %' : String(level)), line = make('b'); mark.style.bottom = line.style.bottom = level + '%';
    axis.append(mark); grid.append(line);
  }
  parts.mean = make('b', 'mean'); grid.append(parts.mean); row.append(grid); axis.append(make('i', '', model.curves ? 'cost' : ''));
  row.setAttribute('role', 'group'); row.setAttribute('aria-label', 'Share of weights to remove, a bar a block');
  row.style.setProperty('--wide', `${model.units.length * (model.units.length > 16 ? 34 : 40)}px`);
  model.units.forEach((unit, index) => row.append(column(unit, index)));
  parts.told = make('div', 'eq-told'); parts.told.setAttribute('role', 'status');
  host.append(figures, tools, put(make('div', 'eq-board'), axis, put(make('div', 'eq-scroll'), row)), parts.told, help());
  host.dataset.units = model.units.length;
}

function help() {
  const line = make('div', 'eq-help'), keys = [['↑ ↓', '1 %'], ['Shift ↑ ↓', '10 %'], ['← →', 'next bar'], ['0–9', 'type a share'], ['L', 'lock'], ['Shift + drag', 'draw across the bars']];
  for (const [key, text] of keys) line.append(put(make('span'), make('kbd', '', key), document.createTextNode(text)));
  if (model.curves) line.append(make('span', '', `Cost: what a block alone adds to the log of the ${metricOf()}.`));
  return line;
}

function column(unit, index) {
  const box = make('div', 'eq-bar'), number = make('input', 'eq-number'), track = make('div', 'eq-track'), fill = make('div', 'eq-fill'), knob = make('div', 'eq-knob'), ghost = make('div', 'eq-ghost');
  const lock = button('', () => toggle(unit.name)), icon = lockIcon(), cost = make('div');
  number.inputMode = 'decimal'; number.tabIndex = -1; number.setAttribute('aria-label', `${unit.title}: percent to remove`);
  number.onchange = () => typed(unit.name, number.value); number.onfocus = () => number.select();
  number.onkeydown = event => { if (event.key === 'Enter' || event.key === 'Escape') { if (event.key === 'Escape') paint(); track.focus(); event.preventDefault(); } };
  lock.className = 'eq-lock'; lock.tabIndex = -1; lock.append(icon);
  track.tabIndex = index ? -1 : 0; track.setAttribute('role', 'slider'); track.setAttribute('aria-orientation', 'vertical'); track.setAttribute('aria-label', unit.title);
  track.setAttribute('aria-valuemin', 0); track.setAttribute('aria-valuemax', Math.round(100 * model.highest)); track.dataset.unit = unit.name;
  track.onkeydown = event => key(event, unit.name, index); track.onpointerdown = event => drag(event, unit.name);
  track.onfocus = () => { for (const other of Object.values(bars)) other.track.tabIndex = other.track === track ? 0 : -1; };
  bars[unit.name] = { box, number, track, fill, knob, ghost, lock, path: icon.firstChild, cost, title: unit.title };
  return put(box, number, put(track, fill, knob, ghost), lock, make('div', 'eq-name', unit.label), put(make('div', 'eq-cost'), cost));
}

function set(unit, share, step = 0.01) {
  if (locked.has(unit)) return say(`${bars[unit].title} is locked.`);
  adopt({ ...shares, [unit]: Budget.clamp(step ? Math.round(share / step) * step : share, 0, model.highest) });
}

function adopt(next) { shares = next; say(''); paint(); ask(); }

function drag(event, unit) {
  if (event.button) return;
  const { track } = bars[unit], top = track.getBoundingClientRect(), drawing = event.shiftKey;
  const at = move => {
    const here = drawing ? Object.keys(bars).find(name => { const r = bars[name].box.getBoundingClientRect(); return move.clientX >= r.left && move.clientX < r.right; }) : unit;
    if (here && !(drawing && locked.has(here))) set(here, (top.bottom - move.clientY) / top.height);
  };
  event.preventDefault(); track.focus(); track.setPointerCapture(event.pointerId); at(event);
  track.onpointermove = at;
  track.onpointerup = track.onpointercancel = () => { track.onpointermove = track.onpointerup = track.onpointercancel = null; commit(); };
}

function key(event, unit, index) {
  const names = Object.keys(bars), by = event.shiftKey ? 0.1 : 0.01, go = { ArrowUp: by, ArrowDown: -by, PageUp: 0.1, PageDown: -0.1 }[event.key];
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z') step(event.shiftKey ? 'redo' : 'undo');
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (go) { set(unit, shares[unit] + go); settle(); }
  else if (event.key === 'Home' || event.key === 'End') { set(unit, event.key === 'End' ? model.highest : 0); settle(); }
  else if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') bars[names[Budget.clamp(index + (event.key === 'ArrowLeft' ? -1 : 1), 0, names.length - 1)]].track.focus();
  else if (event.key.toLowerCase() === 'l') toggle(unit);
  else if (/^[0-9]$/.test(event.key)) { const field = bars[unit].number; field.focus(); field.value = event.key; }
  else return;
  event.preventDefault();
}

let pause = 0;
function settle() { clearTimeout(pause); pause = setTimeout(commit, 350); }

function typed(unit, text) {
  const value = Number(String(text).replace('%', '').replace(',', '.').trim());
  if (String(text).trim() === '' || !Number.isFinite(value) || value < 0 || value > 100) { paint(); return say(`${bars[unit].title}: type a percentage between 0 and ${100 * model.highest}, not “${text}”.`); }
  set(unit, value / 100, 0);
  if (value / 100 > model.highest) say(`${bars[unit].title} stops at ${percent(model.highest)}: with nothing left it would be another model.`);
  commit();
}

function toggle(unit) { if (!locked.delete(unit)) locked.add(unit); paint(); commit(); }

function preset(share) { adopt(Object.fromEntries(Object.keys(sizes).map(unit => [unit, locked.has(unit) ? shares[unit] : share]))); commit(); }

function say(text) { if (parts.told && parts.told.textContent !== text) parts.told.textContent = text; }

function paint() {
  if (!model || !model.units.length) return;
  const now = Budget.estimate(model.curves, sizes, shares);
  const costs = Object.fromEntries(Object.keys(sizes).map(unit => [unit, model.curves && unit in model.curves.cost ? Math.max(0, Budget.costAt(model.curves, unit, shares[unit])) : 0]));
  const highest = Math.max(...Object.values(costs), 0.02);
  for (const unit in bars) {
    const bar = bars[unit], share = shares[unit], shut = locked.has(unit), text = percent(share);
    bar.fill.style.height = bar.knob.style.bottom = `${100 * share}%`; bar.box.classList.toggle('locked', shut);
    if (document.activeElement !== bar.number) bar.number.value = (100 * share).toFixed(1).replace(/\.0$/, '');
    bar.track.setAttribute('aria-valuenow', Math.round(100 * share)); bar.track.setAttribute('aria-valuetext', `remove ${text}${shut ? ', locked' : ''}`);
    bar.lock.setAttribute('aria-pressed', shut); bar.lock.setAttribute('aria-label', `Lock ${bar.title}`); bar.path.setAttribute('d', shut ? SHUT : OPEN);
    bar.cost.style.height = `${100 * costs[unit] / highest}%`; bar.cost.parentNode.title = `${bar.title} alone: ${metricOf()} × ${Math.exp(costs[unit]).toFixed(3)}`;
    const was = model.measured && model.measured.shares[unit]; bar.ghost.hidden = was == null; bar.ghost.style.bottom = `${100 * (was || 0)}%`;
  }
  figures(now);
  if (base === null) parts.slider.value = 100 * now.sparsity;
  parts.slider.style.setProperty('--at', `${100 * now.sparsity / model.highest}%`);
  parts.slider.setAttribute('aria-valuetext', `remove ${percent(now.sparsity)} of the blocks' weights`);
  parts.output.textContent = percent(now.sparsity); parts.mean.style.bottom = `${100 * now.sparsity}%`;
  parts.undo.disabled = !model.undo; parts.redo.disabled = !model.redo;
}

const metricOf = () => model.curves ? model.curves.metric : 'quality';

function figures(now) {
  const change = model.curves && now.quality ? now.quality / model.curves.dense - 1 : 0, other = model.parameters - now.total;
  parts.quality.textContent = model.curves ? quality(now.quality) : '–';
  parts.qualityUnder.textContent = model.curves ? `dense ${quality(model.curves.dense)}${Math.abs(change) < 5e-4 ? '' : `, ${change < 0 ? '−' : '+'}${Math.abs(change) < 10 ? (100 * Math.abs(change)).toFixed(1) + ' %' : whole(100 * Math.abs(change)) + ' %'}`}` : 'measure the curves first';
  const measured = model.measured, same = measured && close(measured.shares, shares);
  parts.measured.closest('.eq-figure').hidden = !measured;
  if (measured) {
    const times = measured.value / measured.dense, predicted = same && model.curves ? now.quality / model.curves.dense : null;
    parts.measured.textContent = quality(measured.value);
    parts.measuredUnder.textContent = !same ? `at ${percent(measured.sparsity)}: the dotted marks` : predicted ? `× ${times.toFixed(3)} of dense by ${measured.method}, predicted × ${predicted.toFixed(3)}` : `× ${times.toFixed(3)} of dense by ${measured.method}`;
  }
  parts.sparsity.textContent = percent(now.sparsity); parts.sparsityUnder.textContent = `${percent(model.parameters ? (now.total - now.kept) / model.parameters : 0)} of all parameters`;
  parts.kept.textContent = millions(now.kept + other); parts.keptUnder.textContent = `of ${millions(model.parameters)}`;
  parts.bytes.textContent = bytes((now.kept + other) * model.bytes_per_parameter); parts.bytesUnder.textContent = `of ${bytes(model.parameters * model.bytes_per_parameter)}`;
  parts.bytes.closest('.eq-figure').title = 'Bytes of the non-zero weights. A dense file does not shrink by zeros; a sparse one also stores where they are.';
  host.dataset.quality = now.quality ?? ''; host.dataset.sparsity = now.sparsity;
}

// While a hand moves, the server confirms what this file has worked out: one question in flight, always the last state.
async function ask() {
  if (!model.curves || asking) { again = true; return; }
  asking = true; again = false;
  const mine = { ...shares };
  try {
    const said = await server.confirm(mine), own = Budget.estimate(model.curves, sizes, mine);
    host.dataset.confirmed = said.quality; host.dataset.serverMs = said.server_ms;
    if (said.quality != null && Math.abs(said.quality / own.quality - 1) > 1e-6) say('The server predicts otherwise; reload the page.');
  } catch (error) { say('The studio does not answer; changes are kept here until it does.'); }
  asking = false; if (again) ask();
}

// Changes go to the workspace one after the other, each on top of the revision that the one before it made.
let chain = Promise.resolve();
function commit() {
  clearTimeout(pause); host.dataset.saving = '';
  chain = chain.then(async () => {
    try {
      const mine = { ...shares }, said = await server.commit({ shares: mine, locked: [...locked], seen: model.revision, model: model.name });
      take(said, !!said.told);
    } catch (error) { say('The studio does not answer; this change is not saved yet.'); }
    delete host.dataset.saving;
  });
}

function step(which) {
  chain = chain.then(async () => { try { take(await server.step({ which, model: model.name }), true); } catch (error) { say('The studio does not answer.'); } });
}

function take(said, all) {
  Object.assign(model, { revision: said.revision, undo: said.undo, redo: said.redo });
  if (all) { shares = filled(said.shares); locked = new Set(said.locked); ask(); }
  paint(); if (said.told) say(said.told);
  host.dataset.rev = said.revision; trigger('committed', { revision: said.revision });
}

const filled = given => Object.fromEntries(model.units.map(unit => [unit.name, given[unit.name] ?? 0]));

function receive() {
  const value = props.value; if (!value || !value.units) return;
  const other = !model || JSON.stringify([model.name, model.units, !!model.curves]) !== JSON.stringify([value.name, value.units, !!value.curves]);
  const newer = other || value.revision > model.revision, kept = other ? null : { revision: model.revision, undo: model.undo, redo: model.redo };
  model = { ...value, ...(newer ? {} : kept) }; sizes = Object.fromEntries(model.units.map(unit => [unit.name, unit.size]));
  if (newer) { shares = filled(value.shares); locked = new Set(value.locked); base = null; }
  if (other) build();
  paint(); host.dataset.rev = model.revision;
}
watch('value', receive); receive();
