// A finding: a heading, a badge, a sentence, and figures as term and value. Everything is set as textContent: names may come from files.
const host = element.querySelector('.facts');
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const block = element.closest('.block');
if (element.parentElement) element.parentElement.style.padding = '0';
const draw = () => {
  const value = props.value, empty = !value || !(value.title || value.note || value.facts.length);
  host.replaceChildren(); host.hidden = empty; if (block) block.style.display = empty ? 'none' : ''; if (empty) return;
  if (value.title) {
    const head = make('h3', '', value.title);
    if (value.badge) head.append(make('span', `badge badge-${value.badge.split(' ')[0]}`, value.badge));
    host.append(head);
  }
  if (value.note) host.append(make('p', '', value.note));
  if (value.facts && value.facts.length) {
    const list = make('dl');
    for (const [term, text, hint] of value.facts) {
      const row = make('div'); row.append(make('dt', '', term), make('dd', '', text)); if (hint) row.title = hint; list.append(row);
    }
    host.append(list);
  }
  host.dataset.rev = Number(host.dataset.rev || 0) + 1;
};
watch('value', draw); draw();
