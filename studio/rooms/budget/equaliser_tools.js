// The equaliser's tools (handle, shapes, proposals, targets, snapshots) and its talk with the server.

function tools() {
  const slider = make('input'); slider.type = 'range'; slider.min = 0; slider.max = 100 * model.highest; slider.step = 0.5;
  slider.setAttribute('aria-label', 'All blocks: sparsity of all unlocked bars, moved together');
  slider.oninput = () => {
    base ??= { ...shares }; const names = scopeParts();
    adopt({ ...shares, ...Budget.redistribute(pick(base, names), pick(sizes, names), slider.value / 100, held(), model.highest) });
  };
  slider.onchange = () => { base = null; commit(); };
  ui.slider = slider; ui.output = make('output');
  ui.undo = button('Undo', () => step('undo'), 'Undo (Ctrl+Z)'); ui.redo = button('Redo', () => step('redo'), 'Redo (Ctrl+Shift+Z)');
  ui.turn = button('A', () => step('turn'), 'A / B: the other budget (Space)'); ui.turn.className = 'eq-turn';
  const which = select('Which layers the handle moves', [['all', 'All layers'], ['attention', 'Attention'], ['mlp', 'MLP and others']], value => { scope = value; base = null; paint(); }, scope);
  const shapes = select('Shapes', [['', 'Shapes…'], ...Object.keys(SHAPES).map(name => [name, name])], value => { if (value) shaped(value); shapes.value = ''; });
  which.className = 'of-weights';
  ui.layers = button('By layer', foldAll, 'Show a bar a layer, or a bar a block'); ui.layers.setAttribute('aria-pressed', unfolded.size > 0);
  const pen = button('Draw', () => { drawing = !drawing; pen.setAttribute('aria-pressed', drawing); say(drawing ? 'Drag across the bars to draw.' : ''); }, 'Draw a curve across the bars by dragging'); pen.setAttribute('aria-pressed', drawing);
  const snaps = [4, 8].map(of => button(`Snap ${of}`, () => snap(of), `Snap to shares of N:${of} patterns`));
  for (const node of [...snaps, ui.layers]) node.className = 'of-weights';
  return put(make('div', 'eq-toolbox'),
    put(make('div', 'eq-tools'), structureChoice(), put(make('label', 'eq-global'), make('span', '', 'All blocks'), slider, ui.output), which, ui.turn, ui.undo, ui.redo),
    put(make('div', 'eq-tools'), button('Uniform 20 %', () => preset(0.2)), button('Uniform 50 %', () => preset(0.5)), button('Reset', () => preset(0), 'Set every unlocked bar to 0 %'), shapes,
      button('Mirror', mirror, 'Mirror: the last block’s bars become the first’s'), ...snaps, pen, ui.layers));
}

function select(label, choices, act, value = '') {
  const node = make('select'); node.setAttribute('aria-label', label); node.title = label;
  for (const [key, text] of choices) { const option = make('option', '', text); option.value = key; node.append(option); }
  node.value = value; node.onchange = () => act(node.value); return node;
}

const field = (label, hint, enter) => { const node = make('input', 'eq-field'); node.type = 'text'; node.setAttribute('aria-label', label); node.placeholder = hint; node.onkeydown = event => { if (event.key === 'Enter') enter(); }; return node; };

function panels() {
  const wish = field('Target', '4.5', () => aim()), kind = select('Kind of target', [['size', groupsOf() ? 'MB, at most' : 'MB not zero, at most'], ['quality', `${metricOf()} at most + %`], ['faster', 'times faster here']], () => { wish.placeholder = { size: '4.5', quality: '10', faster: '1.3' }[kind.value]; }, 'size');
  const aim = () => solve(kind.value, wish.value);
  const targets = put(make('section', 'eq-panel'), make('h4', '', 'Target'), put(make('div', 'eq-line'), kind, wish, button('Solve', aim, 'Solve for this target')));
  ui.ideas = make('div', 'eq-chips'); ui.ideas.setAttribute('role', 'group'); ui.ideas.setAttribute('aria-label', 'Proposals for this total');
  ui.blend = make('input'); ui.blend.type = 'range'; ui.blend.min = 0; ui.blend.max = 100; ui.blend.value = 0; ui.blend.disabled = true; ui.blend.setAttribute('aria-label', 'Blend: from this budget to the proposal');
  ui.blend.oninput = () => { if (!ghost) return; blended(ui.blend.value); base ??= { ...shares }; const still = new Set(held()), next = Budget.blend(base, ghost.shares, ui.blend.value / 100); for (const name of still) next[name] = base[name]; adopt(next); };
  ui.blend.onchange = () => { base = null; commit(); };
  ui.adopt = button('Adopt', () => { adopt({ ...ghost.shares }); blended(100); commit(); }, 'Adopt the proposal'); ui.adopt.disabled = true;
  const title = make('h4', '', 'Proposals for this total'); if (model.curves) title.append(' ', make('span', 'badge badge-estimate of-weights', 'estimate'));
  const proposals = put(make('section', 'eq-panel wide'), title, ui.ideas, put(make('div', 'eq-line of-weights'), make('span', 'eq-soft', 'mine'), ui.blend, make('span', 'eq-soft', 'proposal'), ui.adopt));
  const name = field('Name of the snapshot', 'name', () => store()), store = () => { const text = name.value; name.value = ''; talk('keep', { name: text }); };
  name.maxLength = 60; ui.stored = make('div', 'eq-chips');
  const snapshots = put(make('section', 'eq-panel'), make('h4', '', 'Snapshots'), put(make('div', 'eq-line'), name, button('Keep', store, 'Keep this budget under a name')), ui.stored);
  paintKept();
  return put(make('div', 'eq-panels'), targets, proposals, snapshots);
}

function paintKept() {
  ui.stored.replaceChildren(...model.snapshots.map(kept => put(make('span', 'eq-chip'),
    button(kept.name, () => { locked = new Set(lockedParts(kept.locked)); adopt(Budget.byPart(kept.shares, blockOf)); commit(); }, `Restore ${kept.name}`),
    button('×', () => talk('keep', { name: kept.name, forget: true }), `Forget ${kept.name}`))));
  if (!model.snapshots.length) ui.stored.append(make('span', 'eq-soft', 'None kept yet.'));
}

async function solve(kind, wish) {
  try {
    const found = await server.aim({ kind, value: wish, structure, shares: Budget.compact(shares, blockOf), locked: [...locked] });
    if (found.shares) { adopt(Budget.byPart(found.shares, blockOf)); commit(); }
    await chain; say(found.told); host.dataset.solved = Number(host.dataset.solved || 0) + 1;
  } catch (error) { say('The studio does not answer; try again.'); }
}

// ---- proposals follow the total once a hand has come to rest

let proposed = [], proposedAt = null, proposing = false;
async function propose() {
  const total = mean(Object.keys(sizes)), mine = JSON.stringify([total.toFixed(4), [...locked]]);
  if (groupsOf()) { proposed = []; proposedAt = ghost = null; listIdeas(); return paint(); }
  if (!total) { proposed = []; proposedAt = ghost = null; listIdeas(); return paint(); }
  if (proposing || proposedAt === mine) return;
  proposing = true;
  try {
    const found = await server.propose({ shares: Budget.compact(shares, blockOf), locked: [...locked] });
    proposedAt = mine; proposed = found.proposals.map(each => ({ ...each, shares: Budget.byPart(each.shares, blockOf) }));
    if (ghost) ghost = proposed.find(each => each.name === ghost.name) || null;
    listIdeas(); paint(); host.dataset.proposed = mine;
  } catch (error) { ui.ideas.replaceChildren(make('span', 'eq-soft', 'The studio does not answer.')); }
  proposing = false;
}

const blended = part => { ui.blend.value = part; ui.blend.style.setProperty('--at', `${part}%`); };

function listIdeas() {
  ui.ideas.replaceChildren(...proposed.map(each => {
    const node = button('', () => { ghost = ghost && ghost.name === each.name ? null : each; blended(0); listIdeas(); paint(); }, `Show ${each.label}`);
    node.setAttribute('aria-pressed', !!ghost && ghost.name === each.name);
    return put(node, make('span', '', each.label), make('b', '', each.quality == null ? '' : `${metricOf()} ${quality(each.quality)}`));
  }));
  if (!proposed.length) ui.ideas.append(make('span', 'eq-soft', groupsOf() ? `Proposals spread single weights. For ${structure}, Prune & recover has allocations of its own, such as one global ranking.` : 'Remove something first: proposals spread the same total.'));
  ui.adopt.disabled = ui.blend.disabled = !ghost;
}

// ---- while a hand moves, the server confirms what this file has worked out: one question in flight, always the last state

async function ask() {
  if (!model.curves || groupsOf()) return;
  if (asking) { again = true; return; }
  asking = true; again = false;
  const mine = { ...shares };
  try {
    const said = await server.confirm(Budget.compact(mine, blockOf)), own = Budget.estimate(model.curves, sizes, mine);
    host.dataset.confirmed = said.quality; host.dataset.serverMs = said.server_ms;
    if (said.quality != null && Math.abs(said.quality / own.quality - 1) > 1e-6) say('The server predicts otherwise; reload the page.');
  } catch (error) { say('The studio does not answer; changes are kept here until it does.'); }
  asking = false; if (again) ask();
}

function say(text) { if (ui.told && ui.told.textContent !== text) ui.told.textContent = text; }

// Changes go to the workspace one after the other, each on top of the revision that the one before it made.
let chain = Promise.resolve(), unsaved = 0;
function commit() {
  clearTimeout(pause); pause = 0; host.dataset.saving = ''; unsaved++;
  chain = chain.then(async () => {
    try {
      const said = await server.commit({ shares: Budget.compact(shares, blockOf), locked: [...locked], seen: model.revision, model: model.name });
      take(said, !!said.told);
    } catch (error) { say('The studio does not answer; this change is not saved yet.'); }
    unsaved--; if (!unsaved && !pause) delete host.dataset.saving; // a later change may wait still
    propose();
  });
}

// What keys have changed in the last moment is written before anything else is done, and before the page goes.
function settled() { if (pause) commit(); }
window.addEventListener('beforeunload', settled); window.addEventListener('pagehide', settled);

function step(which) {
  settled();
  chain = chain.then(async () => { try { take(await server.step({ which, model: model.name }), true); propose(); } catch (error) { say('The studio does not answer.'); } });
}

function talk(what, asked) {
  settled();
  chain = chain.then(async () => { try { take(await server[what](asked), false); } catch (error) { say('The studio does not answer.'); } });
}

function take(said, all) {
  const { revision, undo, redo, side, snapshots } = said;
  Object.assign(model, { revision, undo, redo, side, snapshots });
  if (all) { shares = Budget.byPart(said.shares, blockOf); locked = new Set(lockedParts(said.locked)); ask(); }
  paint(); paintKept(); if (said.told) say(said.told);
  host.dataset.rev = said.revision; trigger('committed', { revision: said.revision, structure });
}

const lockedParts = names => { const on = Budget.byPart(Object.fromEntries(names.map(name => [name, 1])), blockOf); return Object.keys(on).filter(name => on[name]); };

// The value comes as one string: Gradio copies and wraps every object inside a value, which costs seconds for 10,000 layers. It is always all there is to draw,
// since only the last value reaches a room that nobody has opened yet.
let text = '';
function receive() {
  const given = props.value; if (!given || given.whole === text) return;
  text = given.whole;
  const value = JSON.parse(text); if (!value) return;
  const face = of => JSON.stringify([of.name, of.blocks.length, of.parts.length, of.curves && [of.curves.dense, of.curves.scale], !!of.measured, of.past, of.units]);
  const other = !model || face(value) !== face(model);
  const newer = other || value.revision > model.revision, { revision, undo, redo, side, snapshots } = model || {};
  model = { ...(model || {}), ...value, ...(newer ? {} : { revision, undo, redo, side, snapshots }) };
  if (other) {
    sizes = {}; blockOf = {}; members = {}; parts = {}; ghost = null; solo = null; proposed = []; proposedAt = null;
    for (const part of model.parts) { sizes[part.name] = part.size; blockOf[part.name] = part.block; parts[part.name] = part; (members[part.block] ??= []).push(part.name); }
    unfolded = new Set([...unfolded].filter(name => name in members)); first = 0; recall();
  }
  if (newer) { shares = Budget.byPart(value.shares, blockOf); locked = new Set(lockedParts(value.locked)); base = null; }
  if (other) { listUnits(); build(); if (model.parts.length) drawFrontier(); }
  paint(); if (newer && !other && ui.stored) paintKept();
  host.dataset.rev = model.revision;
  if (newer && model.parts.length) propose();
  if (other && structure) commit(); // what the bars remove is told to the other rooms again
}
watch('value', receive); receive();
