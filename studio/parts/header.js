// What is open, as text; and a word to the server whenever this tab comes to the front again.
const line = element.querySelector('.open');
const short = source => source.length > 60 ? '…' + source.slice(-58) : source;
const piece = (label, source) => {
  const bold = document.createElement('b');
  bold.textContent = short(source);
  bold.title = source;
  line.append(label + ' ', bold);
};
const show = () => {
  const open = props.value || {};
  line.textContent = '';
  if (open.model) piece('Model', open.model);
  if (open.model && open.data) line.append('  ·  ');
  if (open.data) piece('Data', open.data);
};
watch('value', show);
show();
document.addEventListener('visibilitychange', () => { if (!document.hidden) trigger('focus', {}); });
window.addEventListener('focus', () => trigger('focus', {}));
// A table's own field for filtering has a title but no name, and comes and goes with its rows.
let naming = 0;
new MutationObserver(() => { naming ||= requestAnimationFrame(() => {
  naming = 0;
  for (const field of document.querySelectorAll('input.search-input:not([aria-label])')) field.setAttribute('aria-label', 'Filter the table');
}); }).observe(document.body, {childList: true, subtree: true});
