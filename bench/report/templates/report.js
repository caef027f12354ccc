"use strict";
(async () => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colours = () => root.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", colours);
  colours();

  const text = atob(document.getElementById("library").textContent);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
  const { default: DataTable } = await import(url);
  URL.revokeObjectURL(url);

  const PAGE = 25;
  const made = [];
  for (const table of document.querySelectorAll("main .table > table")) {
    const rows = table.tBodies.length ? table.tBodies[0].rows.length : 0;
    if (rows < 2) continue;
    const long = rows > PAGE;
    made.push(
      new DataTable(table, {
        order: [],
        autoWidth: false,
        paging: long,
        pageLength: PAGE,
        lengthMenu: [PAGE, 100, { label: "all", value: -1 }],
        info: long,
        searching: rows > 5,
        language: { search: "Filter:", emptyTable: "", zeroRecords: "No row matches." },
      }),
    );
  }
  // Paper has no pages to turn in a table.
  let lengths = [];
  window.addEventListener("beforeprint", () => {
    lengths = made.map((table) => table.page.len());
    made.forEach((table) => table.page.len(-1).draw());
  });
  window.addEventListener("afterprint", () => made.forEach((table, i) => table.page.len(lengths[i]).draw()));
  root.dataset.tables = String(made.length);
})();
