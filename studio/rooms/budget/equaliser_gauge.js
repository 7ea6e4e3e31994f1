// The equaliser's gauge: the predicted figures while a hand moves, and the frontier with the present budget on it.

const ui = {};

function figure(key, label, lead) {
  const box = make('div', lead ? 'eq-figure lead' : 'eq-figure'), term = make('dt', '', label), value = make('dd'), under = make('dd', 'under');
  ui[key] = value; ui[key + 'Under'] = under; ui[key + 'Term'] = term; ui[key + 'Box'] = box;
  return put(box, term, value, under);
}

function gauge() {
  const list = put(make('dl', 'eq-figures'), figure('quality', `Predicted ${metricOf()}`, true), figure('measured', 'Measured'), figure('sparsity', 'Sparsity of the blocks'),
    figure('kept', 'Parameters kept'), figure('bytes', 'Bytes that are not zero'), figure('flops', 'FLOPs a token, not zero'), figure('kv', 'KV cache'), figure('latency', 'Latency here'));
  ui.qualityTerm.append(make('span', 'badge badge-estimate', 'estimate')); ui.measuredTerm.append(make('span', 'badge badge-measured', 'measured'));
  ui.past = make('dd', 'under past'); ui.qualityBox.append(ui.past);
  ui.bytesBox.title = 'Bytes of the non-zero weights. A dense file does not shrink by zeros; a sparse one also stores where they are.';
  ui.flopsBox.title = 'What a kernel that skips every zero would do. Today’s dense kernels do not.';
  const side = make('figure', 'eq-frontier'); ui.frontTitle = make('figcaption'); ui.front = drawn('svg', { viewBox: '0 0 360 190', role: 'img' });
  put(side, ui.frontTitle, ui.front); side.hidden = !(model.frontier && model.frontier.length > 1);
  return put(make('div', 'eq-top'), list, side);
}

const signed = change => Math.abs(change) < 5e-4 ? '' : `${change < 0 ? '−' : '+'}${Math.abs(change) < 10 ? (100 * Math.abs(change)).toFixed(1) + ' %' : whole(100 * Math.abs(change)) + ' %'}`;

function figures(now) {
  const other = model.parameters - now.total, change = model.curves && now.quality ? now.quality / model.curves.dense - 1 : 0;
  ui.quality.textContent = model.curves ? quality(now.quality) : '–';
  const range = model.curves && model.curves.within && Math.abs(change) > 5e-4 ? ` · ${quality(now.low)} to ${quality(now.high)}` : '';
  ui.qualityUnder.textContent = model.curves ? `dense ${quality(model.curves.dense)}${change && signed(change) ? ', ' + signed(change) : ''}${range}` : 'measure the curves first';
  ui.qualityUnder.title = range ? 'The range that holds nine times in ten, from budgets of the whole model measured with the curves.' : '';
  ui.past.textContent = model.past ? `past predictions: off by ${(100 * model.past.error).toFixed(0)} % (median of ${model.past.runs} run${model.past.runs > 1 ? 's' : ''})` : model.curves ? 'no run has tested these curves yet' : '';
  measured(now);
  ui.sparsity.textContent = percent(now.sparsity); ui.sparsityUnder.textContent = `${percent(model.parameters ? (now.total - now.kept) / model.parameters : 0)} of all parameters`;
  ui.kept.textContent = millions(now.kept + other); ui.keptUnder.textContent = `of ${millions(model.parameters)}`;
  ui.bytes.textContent = bytes((now.kept + other) * model.bytes_per_parameter); ui.bytesUnder.textContent = `of ${bytes(model.parameters * model.bytes_per_parameter)}`;
  ui.flopsBox.hidden = model.flops == null; ui.kvBox.hidden = !model.kv;
  if (model.flops != null) { ui.flops.textContent = millions(model.flops - 2 * (now.total - now.kept)); ui.flopsUnder.textContent = `of ${millions(model.flops)}`; }
  if (model.kv) { ui.kv.textContent = bytes(model.kv); ui.kvUnder.textContent = `${model.kv_tokens} tokens; zeros leave it`; }
  ui.latency.textContent = model.latency ? `${model.latency.ms < 10 ? model.latency.ms.toFixed(1) : whole(model.latency.ms)} ms` : '× 1';
  ui.latencyUnder.textContent = model.latency ? `as dense: zeros are no faster` : 'zeros give no speed-up'; ui.latencyBox.title = model.latency ? `Measured in run ${model.latency.run}.` : 'No run has measured this model’s latency here.';
  host.dataset.quality = now.quality ?? ''; host.dataset.sparsity = now.sparsity; host.dataset.low = now.low ?? ''; host.dataset.high = now.high ?? '';
}

function measured(now) {
  const run = model.measured, same = run && Object.keys(sizes).every(name => Math.abs((run.shares[name] || 0) - shares[name]) < 5e-4);
  ui.measuredBox.hidden = !run;
  if (!run) return;
  const times = run.value / run.dense, predicted = same && model.curves && run.foretold ? now.quality / model.curves.dense : null;
  ui.measured.textContent = quality(run.value);
  ui.measuredUnder.textContent = !same ? `at ${percent(run.sparsity)}: the dotted marks` : predicted ? `× ${times.toFixed(3)} of dense by ${run.method}, predicted × ${predicted.toFixed(3)}` : `× ${times.toFixed(3)} of dense by ${run.method}`;
}

// ---- the frontier: quality against size, the best budget of every size, uniform ones, and where this budget stands

const FRAME = { left: 44, right: 350, top: 10, bottom: 152 };
let front = null;

function drawFrontier() {
  front = null;
  if (!model.curves || !model.frontier || model.frontier.length < 2) return;
  const size = removed => (model.parameters - removed) * model.bytes_per_parameter, all = Object.values(sizes).reduce((a, b) => a + b, 0);
  const best = model.frontier.map(([removed, increase]) => [size(removed), increase]);
  const uniform = Array.from({ length: 25 }, (_, i) => { const share = model.highest * i / 24; return [size(share * all), Math.log(Budget.estimate(model.curves, sizes, Object.fromEntries(Object.keys(sizes).map(name => [name, share]))).quality / model.curves.dense)]; });
  const most = Math.min(Math.max(best[best.length - 1][1], 0.05), Math.log(3)); // beyond three times dense nobody chooses
  const low = Math.min(...best.filter(point => point[1] <= most * 1.02).map(point => point[0]), size(0) * 0.98), high = size(0);
  const x = at => FRAME.left + (FRAME.right - FRAME.left) * Budget.clamp((at - low) / (high - low || 1), 0, 1), y = increase => FRAME.bottom - (FRAME.bottom - FRAME.top) * Budget.clamp(increase / most, -0.03, 1.03);
  const line = points => points.filter(point => point[0] >= low).map((point, i) => `${i ? 'L' : 'M'}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join('');
  front = { best, x, y, size };
  const words = (text, cls, at) => { const node = drawn('text', { class: cls, ...at }); node.textContent = text; return node; };
  const ticks = [0, 0.5, 1].map(part => most * part), columns = [0, 0.5, 1].map(part => low + (high - low) * part);
  ui.dot = drawn('circle', { r: 5.5, class: 'dot' }); ui.ideaDot = drawn('circle', { r: 4, class: 'idea' });
  ui.front.replaceChildren(
    ...ticks.flatMap(at => [drawn('path', { class: 'rule', d: `M${FRAME.left} ${y(at)}H${FRAME.right}` }), words(quality(model.curves.dense * Math.exp(at)), 'tick', { x: FRAME.left - 6, y: y(at) + 4, 'text-anchor': 'end' })]),
    ...columns.map((at, i) => words(bytes(at), 'tick', { x: x(at), y: FRAME.bottom + 15, 'text-anchor': i === 2 ? 'end' : i ? 'middle' : 'start' })),
    words(`bytes not zero; up: predicted ${metricOf()}, log scale`, 'tick', { x: (FRAME.left + FRAME.right) / 2, y: 186, 'text-anchor': 'middle' }),
    words('solid: best, dashed: uniform', 'tick', { x: FRAME.right, y: FRAME.top + 3, 'text-anchor': 'end' }),
    drawn('path', { class: 'uniform', d: line(uniform) }), drawn('path', { class: 'best', d: line(best) }), ui.ideaDot, ui.dot);
}

// Read on the frontier at a size: the predicted log increase of the best budget that is as small.
function bestAt(at) {
  const points = front.best; // sizes fall
  let i = points.findIndex(point => point[0] <= at);
  if (i < 0) return points[points.length - 1][1];
  if (i === 0) return points[0][1];
  const [a, b] = [points[i - 1], points[i]];
  return a[1] + (b[1] - a[1]) * (a[0] - at) / (a[0] - b[0] || 1);
}

function paintFrontier(now) {
  if (!front) return;
  const at = front.size(now.total - now.kept), increase = Math.log(now.quality / model.curves.dense), best = model.curves.dense * Math.exp(bestAt(at));
  ui.dot.setAttribute('cx', front.x(at)); ui.dot.setAttribute('cy', front.y(increase));
  ui.ideaDot.style.display = ghost ? '' : 'none';
  if (ghost) { const idea = Budget.estimate(model.curves, sizes, ghost.shares); ui.ideaDot.setAttribute('cx', front.x(front.size(idea.total - idea.kept))); ui.ideaDot.setAttribute('cy', front.y(Math.log(idea.quality / model.curves.dense))); }
  const worse = now.quality / best - 1, words = now.sparsity === 0 ? 'Nothing is pruned yet' : worse < 0.003 ? `As good as the best budget of this size: ${metricOf()} ${quality(best)}, estimated` : `Estimated ${metricOf()}: ${quality(now.quality)}; the best budget of this size would have ${quality(best)}`;
  ui.frontTitle.textContent = words;
  ui.front.setAttribute('aria-label', `${words}. Solid line: the best budget of each size; dashed: uniform; the dot: this budget.`);
}
