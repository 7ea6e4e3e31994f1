// The equaliser's hand: dragging, drawing across bars, keys, typing, locks, solo, unfolding, and the handle that moves many bars.

const scopeParts = () => Object.keys(sizes).filter(name => scope === 'all' || parts[name].attention === (scope === 'attention'));
const held = () => { const soloed = solo && units.find(unit => unit.name === solo); return soloed ? Object.keys(sizes).filter(name => !soloed.names.includes(name) || locked.has(name)) : [...locked]; };

// A bar of several layers moves them together and keeps their shape.
function set(unit, share, step = 0.01, from = shares) {
  if (groupsOf() ? unit.names.some(name => locked.has(name)) : shut(unit.names)) return say(`${unit.title} is locked.`);
  const wanted = Budget.clamp(step ? Math.round(share / step) * step : share, 0, model.highest);
  const alike = unit.names.every(name => from[name] === from[unit.names[0]]);
  const moved = alike && !unit.names.some(name => locked.has(name)) ? Object.fromEntries(unit.names.map(name => [name, wanted]))
    : Budget.redistribute(pick(from, unit.names), pick(sizes, unit.names), wanted, unit.names.filter(name => locked.has(name)), model.highest);
  adopt({ ...shares, ...moved });
}

function adopt(next) { shares = snapped(next); say(''); paint(); ask(); }

function drag(event, unit) {
  if (event.button) return;
  const { track } = bars[unit.name], top = track.getBoundingClientRect(), across = event.shiftKey || drawing, from = { ...shares };
  const shown = Object.values(bars).map(bar => ({ bar, box: bar.box.getBoundingClientRect() }));
  let last = null;
  const heightAt = y => (top.bottom - y) / top.height;
  const at = move => {
    if (!across) return set(unit, heightAt(move.clientY), 0.01, from);
    const here = { x: move.clientX, y: move.clientY }, before = last || here, low = Math.min(before.x, here.x), high = Math.max(before.x, here.x);
    for (const { bar, box } of shown) {
      const middle = (box.left + box.right) / 2, over = here.x >= box.left && here.x < box.right;
      if (!over && !(middle >= low && middle <= high) || shut(bar.unit.names)) continue;
      const part = over || here.x === before.x ? 1 : (middle - before.x) / (here.x - before.x);
      set(bar.unit, heightAt(before.y + (here.y - before.y) * part));
    }
    last = here;
  };
  event.preventDefault(); track.focus(); track.setPointerCapture(event.pointerId); at(event);
  track.onpointermove = at;
  track.onpointerup = track.onpointercancel = () => { track.onpointermove = track.onpointerup = track.onpointercancel = null; commit(); };
}

function key(event, unit, index) {
  const names = Object.keys(bars), by = event.shiftKey ? 0.1 : 0.01, go = { ArrowUp: by, ArrowDown: -by, PageUp: 0.1, PageDown: -0.1 }[event.key], word = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && word === 'z') { if (!event.repeat) step(event.shiftKey ? 'redo' : 'undo'); }
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (go) { set(unit, groupsOf() ? nudged(unit, go) : mean(unit.names) + go, groupsOf() ? 0 : 0.01); settle(); }
  else if (event.key === 'Home' || event.key === 'End') { set(unit, event.key === 'End' ? model.highest : 0); settle(); }
  else if (event.key === 'ArrowLeft') index ? bars[names[index - 1]].track.focus() : page(-1, true);
  else if (event.key === 'ArrowRight') index < names.length - 1 ? bars[names[index + 1]].track.focus() : page(1, true);
  else if (event.key === ' ') { if (!event.repeat) step('turn'); }
  else if (word === 'l') toggle(unit);
  else if (word === 's') soloing(unit);
  else if (word === 'u') unfold(unit, true);
  else if (/^[0-9]$/.test(event.key)) { const field = bars[unit.name].number; field.focus(); field.value = event.key; }
  else return;
  event.preventDefault();
}

let pause = 0;
function settle() { clearTimeout(pause); pause = setTimeout(commit, 350); host.dataset.saving = ''; }

function typed(unit, text) {
  const value = Number(String(text).replace('%', '').replace(',', '.').trim());
  if (String(text).trim() === '' || !Number.isFinite(value) || value < 0 || value > 100) { paint(); return say(`${unit.title}: type a percentage between 0 and ${100 * model.highest}, not “${text}”.`); }
  set(unit, value / 100, 0);
  if (value / 100 > model.highest) say(`${unit.title} stops at ${percent(model.highest)}: with nothing left it would be another model.`);
  commit();
}

function toggle(unit) {
  const close = !shut(unit.names);
  for (const name of unit.names) if (close) locked.add(name); else locked.delete(name);
  paint(); commit();
}

// Solo: the handle moves this bar alone, as if all others were locked; pressed again, the locks are as they were.
function soloing(unit) {
  solo = solo === unit.name ? null : unit.name;
  say(solo ? `Solo: the handle moves ${unit.title} alone. S again ends it.` : 'Solo ended.'); paint();
}

function unfold(unit, focus) {
  const block = unit.block ? unit.block.name : unit.name;
  if (groupsOf()) return say(`Whole ${structure} go by block.`);
  if (members[block].length < 2) return say(`${unit.title} is one layer.`);
  if (!unfolded.delete(block)) unfolded.add(block);
  solo = null; rebuild();
  if (focus) { const bar = bars[block] || bars[members[block][0]]; if (bar) bar.track.focus(); }
}

function rebuild() { const at = units[first] && units[first].names[0]; listUnits(); if (at) { first = Math.max(units.findIndex(unit => unit.names.includes(at)), 0); first -= first % WINDOW; } fillBars(); ui.layers.setAttribute('aria-pressed', unfolded.size > 0); host.dataset.units = units.length; paint(); }

function foldAll() { if (groupsOf()) return say(`Whole ${structure} go by block.`); unfolded = unfolded.size ? new Set() : new Set(model.blocks.map(block => block.name)); solo = null; first = 0; rebuild(); }

// Every unlocked layer gets what shape(place of its block, 0 to 1, its present share, its name) says.
const places = () => { const last = Math.max(model.blocks.length - 1, 1); return Object.fromEntries(model.blocks.map((block, index) => [block.name, index / last])); };
function reshape(shape) {
  const place = places(), still = new Set(held());
  adopt(Object.fromEntries(Object.keys(sizes).map(name => [name, still.has(name) ? shares[name] : Budget.clamp(shape(place[blockOf[name]], shares[name], name), 0, model.highest)]))); commit();
}

function preset(share) { reshape(() => share); }

function mirror() {
  const names = model.blocks.map(block => block.name), twin = {};
  names.forEach((block, index) => { const other = members[names[names.length - 1 - index]]; members[block].forEach((name, at) => { twin[name] = other[Math.min(at, other.length - 1)]; }); });
  const before = shares; reshape((place, share, name) => before[twin[name]]);
}

function snap(of) { if (groupsOf()) return say('N:M patterns are for single weights.'); reshape((place, share) => Math.round(share * of) / of); say(`Shares that N:M patterns have: multiples of 1/${of}.`); }

const SHAPES = {
  'Uniform': () => 1, 'Spare both ends': place => place < 0.08 || place > 0.92 ? 0.3 : 1, 'Rising with depth': place => 0.4 + 1.2 * place, 'Falling with depth': place => 1.6 - 1.2 * place,
  'MLP only': (place, share, name) => parts[name].attention ? 0 : 1, 'Attention only': (place, share, name) => parts[name].attention ? 1 : 0,
};
function shaped(name) {
  if (groupsOf() && name.endsWith('only')) return say(`${name}: ${structure} are all of one kind.`);
  const total = mean(Object.keys(sizes)) || 0.3, place = places(), still = held(), weights = {};
  for (const part in sizes) weights[part] = SHAPES[name](place[blockOf[part]], shares[part], part);
  if (!Object.keys(sizes).some(part => weights[part] && !still.includes(part))) return say(`${name}: this model has no such layers that are unlocked.`);
  adopt(Budget.shaped(shares, sizes, weights, total, still, model.highest)); commit();
  const got = mean(Object.keys(sizes));
  if (Math.abs(got - total) > 5e-4) say(`${name}: ${percent(total)} in all cannot be reached so; the nearest is ${percent(got)}.`);
}
