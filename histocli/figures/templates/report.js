for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => {
      const cell = row.cells[column];
      return 'v' in cell.dataset ? (cell.dataset.v === '' ? NaN : Number(cell.dataset.v)) : cell.textContent;
    };
    const order = (a, b) => {
      if (typeof a === 'string' || typeof b === 'string') return String(a).localeCompare(String(b), 'en', {numeric: true});
      if (Number.isNaN(a) || Number.isNaN(b)) return (Number.isNaN(a) - Number.isNaN(b)) * (up ? 1 : -1);
      return a - b;
    };
    const rows = [...body.rows].map(row => [key(row), row]);
    rows.sort((a, b) => order(a[0], b[0]) * (up ? 1 : -1));
    body.append(...rows.map(pair => pair[1]));
  }));
}
// On paper nothing opens, so everything is open there.
let closed = [];
addEventListener('beforeprint', () => {
  closed = [...document.querySelectorAll('details:not([open])')];
  closed.forEach(each => { each.open = true; });
});
addEventListener('afterprint', () => closed.forEach(each => { each.open = false; }));
// A second click on an enlarged picture makes it small again.
document.addEventListener('click', event => {
  const zoom = event.target.closest('a.zoom');
  if (zoom && location.hash === zoom.getAttribute('href')) {
    event.preventDefault();
    location.hash = '#main';
    zoom.scrollIntoView({block: 'nearest'});
  }
});
