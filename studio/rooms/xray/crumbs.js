// Where in the model the picture is: a path of buttons, and beside it what else the same block can show. Words go in as textContent only.
const host = element.querySelector('.crumbs');
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const button = (item, current) => {
  const node = make('button', '', item.label);
  node.type = 'button';
  if (current) node.setAttribute('aria-current', 'location');
  if (item.why) { node.setAttribute('aria-disabled', 'true'); node.title = item.why; }
  if (item.on != null) node.setAttribute('aria-pressed', String(item.on));
  if (item.name) node.setAttribute('aria-label', item.name);
  node.addEventListener('click', () => trigger('select', {to: item.to}));
  return node;
};
const draw = () => {
  const value = props.value, held = document.activeElement && host.contains(document.activeElement) ? document.activeElement.textContent : null;
  host.replaceChildren();
  if (!value) return;
  const nav = make('nav'), list = make('ol');
  nav.setAttribute('aria-label', 'Where in the model');
  value.path.forEach((item, place) => {
    const li = make('li');
    li.append(button(item, place === value.path.length - 1));
    list.append(li);
  });
  nav.append(list);
  host.append(nav);
  if (value.also.length) {
    const group = make('div', 'also');
    group.setAttribute('role', 'group');
    group.setAttribute('aria-label', 'Show of this block');
    value.also.forEach(item => group.append(button(item, false)));
    host.append(group);
  }
  if (held != null) [...host.querySelectorAll('button')].find(node => node.textContent === held)?.focus();
  host.dataset.rev = Number(host.dataset.rev || 0) + 1;
};
host.addEventListener('keydown', event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!step) return;
  const all = [...host.querySelectorAll('button')], at = all.indexOf(document.activeElement);
  if (at < 0) return;
  event.preventDefault();
  all[(at + step + all.length) % all.length].focus();
});
watch('value', draw);
draw();
