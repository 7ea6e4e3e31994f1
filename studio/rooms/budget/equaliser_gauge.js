// The equaliser's gauge: the predicted figures while a hand moves.

const ui = {};

function figure(key, label, lead) {
  const box = make('div', lead ? 'eq-figure lead' : 'eq-figure'), term = make('dt', '', label), value = make('dd'), under = make('dd', 'under');
  ui[key] = value; ui[key + 'Under'] = under; ui[key + 'Term'] = term; ui[key + 'Box'] = box;
  return put(box, term, value, under);
}

function gauge() {
  const list = put(make('dl', 'eq-figures'), figure('quality', `Predicted ${metricOf()}`, true), figure('measured', 'Measured'), figure('sparsity', 'Sparsity of the blocks'),
    figure('kept', 'Parameters kept'), figure('bytes', 'Bytes that are not zero'), figure('flops', 'FLOPs a token, not zero'), figure('kv', 'KV cache'), figure('latency', 'Latency here'));
  ui.figures = list;
  ui.qualityBadge = make('span', 'badge badge-estimate', 'estimate'); ui.latencyBadge = make('span', 'badge badge-estimate', 'estimate'); ui.qualityTerm.append(ui.qualityBadge); ui.latencyTerm.append(ui.latencyBadge); ui.measuredTerm.append(make('span', 'badge badge-measured', 'measured'));
  ui.past = make('dd', 'under past'); ui.qualityBox.append(ui.past);
  ui.bytesBox.title = 'Bytes of the non-zero weights. A dense file does not shrink by zeros; a sparse one also stores where they are.';
  ui.flopsBox.title = 'What a kernel that skips every zero would do. Today’s dense kernels do not.';
  return put(make('div', 'eq-top'), list, frontierPicture());
}

const signed = change => Math.abs(change) < 5e-4 ? '' : `${change < 0 ? '−' : '+'}${Math.abs(change) < 10 ? (100 * Math.abs(change)).toFixed(1) + ' %' : whole(100 * Math.abs(change)) + ' %'}`;

function figures(now) {
  relabel();
  host.dataset.sparsity = now.sparsity;
  if (groupsOf()) return unitFigures();
  const other = model.parameters - now.total;
  predictedFigure(now, model.past); measured(now);
  ui.sparsity.textContent = percent(now.sparsity); ui.sparsityUnder.textContent = `${percent(model.parameters ? (now.total - now.kept) / model.parameters : 0)} of all parameters`;
  ui.kept.textContent = millions(now.kept + other); ui.keptUnder.textContent = `of ${millions(model.parameters)}`;
  ui.bytes.textContent = bytes((now.kept + other) * model.bytes_per_parameter); ui.bytesUnder.textContent = `of ${bytes(model.parameters * model.bytes_per_parameter)}`;
  ui.flopsBox.hidden = model.flops == null; ui.kvBox.hidden = !model.kv;
  if (model.flops != null) { ui.flops.textContent = millions(model.flops - 2 * (now.total - now.kept)); ui.flopsUnder.textContent = `of ${millions(model.flops)}`; }
  if (model.kv) { ui.kv.textContent = bytes(model.kv); ui.kvUnder.textContent = `${model.kv_tokens} tokens; zeros leave it`; }
  ui.latency.textContent = model.latency ? `${model.latency.ms < 10 ? model.latency.ms.toFixed(1) : whole(model.latency.ms)} ms` : '× 1';
  ui.latencyUnder.textContent = model.latency ? `as dense: zeros are no faster` : 'zeros give no speed-up'; ui.latencyBox.title = model.latency ? `Measured in run ${model.latency.run}.` : 'No run has measured this model’s latency here.';
}

// What the curves of what the bars remove predict, how far it may be off, and how far it was; without curves, how to get them.
function predictedFigure(now, past) {
  const curves = curvesNow(), change = curves ? now.quality / curves.dense - 1 : 0;
  ui.quality.textContent = curves ? quality(now.quality) : '–';
  const range = curves && curves.within && Math.abs(change) > 5e-4 ? ` · ${quality(now.low)} to ${quality(now.high)}` : '';
  ui.qualityUnder.textContent = curves ? `dense ${quality(curves.dense)}${change && signed(change) ? ', ' + signed(change) : ''}${range}` : groupsOf() ? `none yet for whole ${structure}: press Measure curves of ${structure}` : 'measure the curves first';
  ui.qualityUnder.title = range ? 'The range that holds nine times in ten, from budgets of the whole model measured with the curves.' : '';
  ui.past.textContent = past ? `past predictions: off by ${(100 * past.error).toFixed(0)} % (median of ${past.runs} run${past.runs > 1 ? 's' : ''})` : curves ? 'no run has tested these curves yet' : '';
  host.dataset.quality = now.quality ?? ''; host.dataset.low = now.low ?? ''; host.dataset.high = now.high ?? '';
}

function measured(now) {
  const run = model.measured, same = run && Object.keys(sizes).every(name => Math.abs((run.shares[name] || 0) - shares[name]) < 5e-4);
  ui.measuredBox.hidden = !run;
  if (!run) return;
  const times = run.value / run.dense, predicted = same && model.curves && run.foretold ? now.quality / model.curves.dense : null;
  ui.measured.textContent = quality(run.value);
  ui.measuredUnder.textContent = !same ? `at ${percent(run.sparsity)}: the dotted marks` : predicted ? `× ${times.toFixed(3)} of dense by ${run.method}, predicted × ${predicted.toFixed(3)}` : `× ${times.toFixed(3)} of dense by ${run.method}`;
}
