// Bars that remove whole neurons or heads: a bar is then the share of its block's units, in steps of one. What goes is counted with prices that the curves'
// run took of this model (and timed on this machine), and the quality is predicted from curves of whole units, where they were measured. Heads go by key-value
// group, so that what is left is still grouped.

let structure = ''; // '' single weights, 'neurons', 'heads'
const KEPT_AS = 'prunarium-what-goes';
const NO_FASTER = 0.02; // a predicted gain below this is none
const groupsOf = () => { const of = structure && model && model.units && model.units[structure]; return of && Object.keys(of.groups).length ? of.groups : null; };
const unitWord = () => structure === 'heads' ? 'key-value groups' : structure;
const goneOf = (group, share) => Math.min(Math.floor(share * group.units + 0.5 + 1e-9), group.most); // as a run counts (units/cutting.py)
const reached = (block, share) => { const group = groupsOf()[block]; return group ? goneOf(group, share) / group.units : 0; };

// The curves that speak of what the bars remove, and what they predict for these shares.
const curvesNow = () => groupsOf() ? model.units[structure].curves : model.curves;
function unitEstimate(of) {
  const groups = groupsOf(), counts = {}, gone = {};
  for (const block in groups) { counts[block] = groups[block].units; gone[block] = goneOf(groups[block], mean(members[block] || [], of)) / groups[block].units; }
  return Budget.estimate(curvesNow(), counts, gone);
}
const estimated = of => groupsOf() ? unitEstimate(of) : Budget.estimate(model.curves, sizes, of);

// Every block's layers at one share that is a whole number of its units; a locked one as it is.
function snapped(next) {
  if (!groupsOf()) return next;
  const out = { ...next };
  for (const block in members) if (!members[block].some(name => locked.has(name))) { const share = reached(block, mean(members[block], next)); for (const name of members[block]) out[name] = share; }
  return out;
}

// A key moves a bar by at least one unit.
function nudged(unit, by) {
  const group = groupsOf()[unit.name]; if (!group) return 0;
  const now = goneOf(group, mean(unit.names)), then = goneOf(group, mean(unit.names) + by);
  return Budget.clamp(then === now ? now + Math.sign(by) : then, 0, group.most) / group.units;
}

function msOff(group, gone) {
  const { at, off } = group; let right = 1;
  while (right < at.length - 1 && at[right] <= gone) right++;
  return off[right - 1] + (off[right] - off[right - 1]) * (gone - at[right - 1]) / (at[right] - at[right - 1]);
}

// What goes with the present bars: units, and what they take off.
function unitsGone() {
  const groups = groupsOf(), sum = { gone: 0, units: 0, parameters: 0, bytes: 0, flops: 0, kv_bytes: 0, ms: 0, mostMs: 0 };
  for (const block in groups) {
    const group = groups[block], gone = goneOf(group, mean(members[block] || []));
    sum.gone += gone; sum.units += group.units;
    for (const cost in group.each) sum[cost] += gone * group.each[cost];
    if (group.at) { sum.ms += msOff(group, gone); sum.mostMs += msOff(group, group.most); }
  }
  return sum;
}

const LABELS = { sparsity: ['Sparsity of the blocks', () => `${unitWord()[0].toUpperCase()}${unitWord().slice(1)} removed`], bytes: ['Bytes that are not zero', () => 'Bytes of the weights'], flops: ['FLOPs a token, not zero', () => 'FLOPs a token'] };
function relabel() {
  const on = !!groupsOf();
  for (const key in LABELS) { const text = on ? LABELS[key][1]() : LABELS[key][0]; if (ui[key + 'Term'].firstChild.textContent !== text) ui[key + 'Term'].firstChild.textContent = text; }
  ui.latencyBadge.hidden = !on; ui.qualityBadge.hidden = !curvesNow();
  host.classList.toggle('units', on); host.classList.toggle('unpriced', on && !curvesNow());
}

function unitFigures() {
  const sum = unitsGone(), dense = model.units[structure].dense_ms, total = model.parameters * model.bytes_per_parameter;
  predictedFigure(unitEstimate(shares), model.units[structure].past);
  ui.measuredBox.hidden = true;
  ui.sparsity.textContent = percent(sum.units ? sum.gone / sum.units : 0); ui.sparsityUnder.textContent = `${whole(sum.gone)} of ${whole(sum.units)}`;
  ui.kept.textContent = millions(model.parameters - sum.parameters); ui.keptUnder.textContent = `of ${millions(model.parameters)}`;
  ui.bytes.textContent = bytes(total - sum.bytes); ui.bytesUnder.textContent = `of ${bytes(total)}`; ui.bytesBox.title = 'The file really shrinks: rows and columns are cut out.';
  ui.flopsBox.hidden = model.flops == null; ui.kvBox.hidden = !model.kv;
  if (model.flops != null) { ui.flops.textContent = millions(model.flops - sum.flops); ui.flopsUnder.textContent = `of ${millions(model.flops)}`; }
  if (model.kv) { ui.kv.textContent = bytes(model.kv - sum.kv_bytes); ui.kvUnder.textContent = structure === 'heads' ? `of ${bytes(model.kv)}, ${model.kv_tokens} tokens` : `${model.kv_tokens} tokens; neurons leave it`; }
  const ms = dense == null ? null : Math.max(dense - sum.ms, 0), short = x => x < 100 ? x.toFixed(1) : whole(x);
  ui.latency.textContent = ms == null ? '–' : `${short(ms)} ms`; ui.latencyUnder.textContent = ms == null ? 'measure the curves here first' : `of ${short(dense)} ms, × ${(dense / Math.max(ms, 1e-9)).toFixed(2)}`;
  ui.latencyBox.title = ms == null ? 'A run of curves times the model and its blocks on this machine.' : 'The dense model’s latency less what single blocks, timed with fewer units on this machine, gave back.';
  host.dataset.ms = ms ?? ''; host.dataset.gone = sum.gone;
}

function unitGuards(named) {
  const told = [], groups = groupsOf(), sum = unitsGone(), dense = model.units[structure].dense_ms, blocks = model.blocks.filter(block => groups[block.name]);
  const off = blocks.filter(block => Math.abs(mean(members[block.name]) - reached(block.name, mean(members[block.name]))) > 5e-4);
  if (off.length) told.push(['!', `${named(off.map(block => `${block.title}: ${percent(mean(members[block.name]))} becomes ${percent(reached(block.name, mean(members[block.name])))}`))}. Only whole ${unitWord()} go.`]);
  const uneven = blocks.filter(block => members[block.name].some(name => Math.abs(shares[name] - shares[members[block.name][0]]) > 1e-9));
  if (uneven.length) told.push(['!', `${named(uneven.map(block => block.title))}: the layers differ, and whole ${structure} go by block. Unlock the bar and move it.`]);
  const empty = blocks.filter(block => reached(block.name, mean(members[block.name])) >= COLLAPSE).map(block => block.title);
  if (empty.length) told.push(['!', `Collapse: ${named(empty)} would keep a tenth of the ${unitWord()} or less.`]);
  const sized = [...new Set(blocks.map(block => groups[block.name].units))], few = Math.min(...sized);
  if (structure === 'heads') told.push(['·', `Query heads go with the key-value head that they share: ${sized.length > 1 ? `${few} to ${Math.max(...sized)}` : few} group${few > 1 ? 's' : ''} a block, so a bar moves in steps of ${percent(1 / few)} and stops at ${percent((few - 1) / few)}: one stays.`]);
  if (dense != null && sum.mostMs < NO_FASTER * dense) told.push(['·', `Removing ${structure} gives no speed-up on this machine, however many go.`]);
  else if (dense != null && sum.gone && sum.ms < NO_FASTER * dense) told.push(['·', 'So few give no speed-up on this machine.']);
  if (model.blocks.length > blocks.length) told.push(['·', `${named(model.blocks.filter(block => !groups[block.name]).map(block => block.title))} ${model.blocks.length - blocks.length > 1 ? 'have' : 'has'} no ${structure} to remove.`]);
  return told;
}

// ---- the choice

function structureChoice() {
  const why = of => { const known = model.units && model.units[of]; return !known ? 'measure the curves first' : known.refused ? 'not in this model' : ''; };
  const node = select('What goes', [['', 'Single weights'], ...['neurons', 'heads'].map(of => [of, `Whole ${of}${why(of) ? `: ${why(of)}` : ''}`])], choose, structure);
  for (const option of node.options) if (option.value && why(option.value)) { option.disabled = true; option.title = (model.units && model.units[option.value] || {}).refused || ''; }
  return node;
}

function choose(of) {
  structure = of; keepChoice(); unfolded = new Set(); solo = null; ghost = null; proposed = []; proposedAt = null;
  const before = JSON.stringify(shares);
  shares = snapped(shares); listUnits(); build(); if (model.parts.length) drawFrontier(); listIdeas(); paint(); ask(); commit();
  host.querySelector('[aria-label="What goes"]').focus();
  const moved = before !== JSON.stringify(shares);
  say(of ? `Bars now remove whole ${unitWord()} of each block.${moved ? ' They moved to whole ones; Undo brings the former budget back.' : ''}` : 'Bars now remove single weights.');
}

function keepChoice() { try { sessionStorage.setItem(KEPT_AS, JSON.stringify([model.name, structure])); } catch (error) { /* a browser that keeps nothing: chosen again after a reload */ } }

// After a reload the bars remove what they did before, if it is the same model and its units are known.
function recall() {
  let kept = ['', ''];
  try { kept = JSON.parse(sessionStorage.getItem(KEPT_AS)) || kept; } catch (error) { /* as above */ }
  structure = kept[0] === model.name ? kept[1] : '';
  if (structure && !groupsOf()) structure = '';
}
