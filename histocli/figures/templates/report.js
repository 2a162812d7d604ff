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
