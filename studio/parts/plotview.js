const host = element.querySelector('.plotview');
let bound = false, rev = 0, held = null, waiting = false, busy = Promise.resolve();
const css = name => getComputedStyle(document.body).getPropertyValue(name).trim();
const axis = () => ({
  gridcolor: css('--plot-grid'), zerolinecolor: css('--plot-grid'), linecolor: css('--plot-grid'), tickcolor: css('--plot-grid'),
});
const axled = given => {
  const title = typeof given.title === 'string' ? {text: given.title} : given.title;
  return {...axis(), ...given, ...(title && {title: {...title, font: {size: 12, ...(title.font || {})}}})};
};
const themed = layout => {
  const out = {
    autosize: true, margin: {l: 56, r: 16, t: 24, b: 44}, ...layout,
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {family: css('--font'), size: 13, ...(layout.font || {}), color: css('--body-text-color')},
    hoverlabel: {bgcolor: css('--plot-hover'), bordercolor: css('--plot-grid'), font: {color: css('--body-text-color'), family: css('--font')}},
    modebar: {bgcolor: 'rgba(0,0,0,0)', color: css('--body-text-color-subdued'), activecolor: css('--color-accent')},
  };
  for (const key of Object.keys(out)) if (/^[xy]axis\d*$/.test(key)) out[key] = axled(out[key]);
  out.xaxis = out.xaxis || axis();
  out.yaxis = out.yaxis || axis();
  return out;
};
// Plotly sets a colour bar's upright title so near its ticks that they touch.
const spaced = trace => {
  for (const bar of [trace.colorbar, trace.marker && trace.marker.colorbar]) {
    if (bar && bar.title && !bar.ticktext) bar.ticksuffix = (bar.ticksuffix || '') + '\u2002';
  }
};
// Plotly's dark ink in the cells of a heat map is a grey.
const inked = () => { for (const text of host.querySelectorAll('.heatmap-label text')) if (text.style.fill === 'rgb(68, 68, 68)') text.style.fill = '#0d1511'; };
const point = p => ({
  curve: p.curveNumber, i: p.pointIndex ?? p.pointNumber, x: p.x, y: p.y, custom: p.customdata ?? null, total: p.data?.x?.length ?? 0,
});
const config = {
  responsive: false, displaylogo: false, scrollZoom: false, modeBarButtonsToRemove: ['autoScale2d'],
  toImageButtonOptions: {format: 'png', scale: 2, filename: 'prunarium'},
};
const current = () => props.value && props.value.rev === rev;
// A figure says in layout.meta what it wants to hear of besides clicks: 'outline' (the lasso's corners, in place of its points), 'window' (a zoom).
const asks = word => (held?.layout?.meta || []).includes(word);
const outlined = e => {
  if (!asks('outline')) return null;
  if (e.lassoPoints) return e.lassoPoints.x.map((x, at) => [x, e.lassoPoints.y[at]]);
  if (!e.range) return null;
  const [[x0, x1], [y0, y1]] = [e.range.x, e.range.y];
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
};
const bind = () => {
  bound = true;
  host.on('plotly_afterplot', inked);
  host.on('plotly_click', e => {
    if (current() && e.points.length) trigger('select', {rev, ...point(e.points[0])});
  });
  host.on('plotly_selected', e => {
    if (!e || !current()) return;
    const outline = outlined(e);
    trigger('option_select', outline ? {rev, outline} : {rev, idx: e.points.map(p => p.pointIndex ?? p.pointNumber)});
  });
  host.on('plotly_deselect', () => { if (current()) trigger('clear', {rev}); });
  host.on('plotly_relayout', e => {
    if (current() && asks('window') && Object.keys(e).some(key => /^[xy]axis\.(range|autorange)/.test(key))) {
      const {xaxis, yaxis} = host._fullLayout;
      const whole = e['xaxis.autorange'] || e['yaxis.autorange'];
      trigger('apply', {rev, window: whole ? null : [...xaxis.range, ...yaxis.range]});
    }
  });
};
// With a <base> in the page plotly pins its clip paths to the address of the moment, and every line vanishes when the address says another room.
const drawn = start => {
  const base = document.querySelector('base[href]'), href = base && base.getAttribute('href');
  if (base) base.removeAttribute('href');
  try { return start(); } finally { if (base) base.setAttribute('href', href); }
};
const paint = async () => {
  const value = props.value;
  if (!value) return;
  waiting = !host.offsetWidth;  // plotly mismeasures in a room that is not shown: draw when it is
  if (waiting) return;
  const plotly = await window.plotlyReady();
  if (value !== props.value) return;  // a newer figure is already waiting
  if (value.marks === undefined || !held) {
    held = value.fig ? JSON.parse(value.fig) : {data: [], layout: {xaxis: {visible: false}, yaxis: {visible: false}}};
    for (const trace of held.data) spaced(trace);
  }
  const figure = held;
  if (value.marks !== undefined && figure.data.length) {  // the picture that is there, other points in front
    figure.data[0].selectedpoints = value.marks ?? undefined;
    figure.data = figure.data.filter(trace => trace.name !== 'chosen');
    if (value.front) figure.data.push(JSON.parse(value.front));
    figure.layout = {...figure.layout, selections: [], selectionrevision: `marks ${value.rev}`};
  }
  host.classList.toggle('empty', !figure.data.length);
  const light = document.body.classList.contains('dark') ? 'dark' : 'light';
  await drawn(() => plotly.react(host, figure.data, themed(figure.layout || {}), config));
  rev = value.rev;
  if (!bound) bind();
  inked();
  host.dataset.rev = rev;
  host.dataset.light = light;
};
const draw = () => { busy = busy.then(paint).catch(error => console.error('plotview', error)); };
watch('value', draw);
draw();
new MutationObserver(draw).observe(document.body, {attributes: true, attributeFilter: ['class']});
new ResizeObserver(() => {
  if (!host.offsetWidth) return;
  if (waiting) draw();
  else if (bound) window.Plotly.Plots.resize(host);
}).observe(host);
