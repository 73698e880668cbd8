// The page's own script: the table of trajectories with its filters, and what opens below it.
// Trajectories are packed in blocks, each unpacked when something of it is shown or searched.
(() => {
  "use strict";
  const held = JSON.parse(document.getElementById("rows").textContent);
  const rows = held.rows.map((values) =>
    Object.fromEntries(held.columns.map((name, place) => [name, values[place]])));
  const form = document.getElementById("filters");
  const detail = document.getElementById("detail");
  const together = document.getElementById("side-by-side");

  // ---- Packed trajectories

  const blocks = new Map();
  function block(number) {
    if (!blocks.has(number)) {
      blocks.set(number, unpack(document.getElementById(`block-${number}`).textContent));
    }
    return blocks.get(number);
  }
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  const fragment = async (id) => (await block(Math.floor(id / held.per_block)))[id % held.per_block];

  // Whole texts for the search, in lower case, made when the first search asks for them.
  let texts = null;
  async function allTexts() {
    if (!texts) {
      const count = Math.ceil(rows.length / held.per_block);
      const packed = await Promise.all([...Array(count).keys()].map(block));
      texts = packed.flat().map((html) => html.replace(/<[^>]*>/g, " ").toLowerCase());
    }
    return texts;
  }
  // As the templates escape text.
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;").replaceAll('"', "&#34;").replaceAll("'", "&#39;");

  // ---- Filters

  const field = (name) => form.elements[name];
  function choices(name, values) {
    for (const [value, told] of values) field(name).add(new Option(told, value));
  }
  choices("record", new Map(rows.map((row) => [row.record, row.source])));
  choices("tool", new Map(rows.flatMap((row) => row.tally.map(([name]) => [name, name])).sort()));

  const between = (value, low, high) =>
    (low === "" || (value !== null && value >= Number(low))) &&
    (high === "" || (value !== null && value <= Number(high)));
  const ended = (row) => ["answered", "goal reached", "goal not reached"].includes(row.outcome);
  const faults = {
    calls: (row) => row.failed > 0,
    errors: (row) => row.errors > 0,
    wrong: (row) => ended(row) && row.j !== null && row.j < 1,
    unended: (row) => !ended(row),
    none: (row) => ended(row) && !row.failed && !row.errors && (row.j === null || row.j >= 1),
  };
  let found = null; // ids whose whole text has what is searched for
  function passes(row) {
    const { record, tool, stage, failed } = values();
    const called = (!tool && !stage) || row.tally.some(([name, where]) =>
      (!tool || name === tool) && (!stage || where === Number(stage)));
    return (!record || row.record === record) && called &&
      between(row.reward, field("reward_low").value, field("reward_high").value) &&
      between(row.j, field("j_low").value, field("j_high").value) &&
      (!failed || faults[failed](row)) && (!found || found.has(row.id));
  }
  const values = () => Object.fromEntries(new FormData(form));

  let asked = 0;
  async function refresh() {
    const mine = ++asked;
    const text = field("text").value.trim().toLowerCase();
    let next = null;
    if (text) {
      const every = await allTexts();
      next = new Set(rows.filter((row) => every[row.id].includes(escaped(text))).map((r) => r.id));
    }
    if (mine !== asked) return; // something else was typed in the meantime
    found = next;
    table.setFilter(passes);
    remember();
  }

  // The address holds the filters and what is open, so that a link leads to it.
  let open = [];
  function remember() {
    const told = Object.entries(values()).filter(([, value]) => value !== "");
    if (open.length) told.push(["open", open.join(",")]);
    const hash = new URLSearchParams(told).toString();
    history.replaceState(null, "", hash ? `#${hash}` : "#trajectories");
  }
  function recall() {
    const told = new URLSearchParams(location.hash.slice(1));
    if (![...told.keys()].some((name) => name === "open" || form.elements[name])) return;
    form.reset();
    for (const [name, value] of told) if (name !== "open" && form.elements[name]) field(name).value = value;
    refresh();
    const ids = (told.get("open") || "").split(",").filter((id) => id !== "" && rows[id]).map(Number);
    if (ids.length) show(ids);
    else document.getElementById("trajectories").scrollIntoView();
  }

  // ---- The table

  const number = (digits) => (cell) => {
    const value = cell.getValue();
    return value === null ? "" : value.toFixed(digits);
  };
  const text = (cell) => {
    cell.getElement().title = cell.getValue(); // whole, where the column is too narrow
    return document.createTextNode(cell.getValue());
  };
  function opener(cell) {
    const link = document.createElement("a");
    link.href = `#open=${cell.getRow().getData().id}`;
    link.textContent = link.title = cell.getValue();
    link.onclick = (event) => { event.preventDefault(); event.stopPropagation(); show([cell.getRow().getData().id]); };
    return link;
  }
  const right = { hozAlign: "right", headerHozAlign: "right", sorter: "number", sorterParams: { alignEmptyValues: "bottom" } };
  const columns = [
    { title: "", formatter: "rowSelection", titleFormatter: "rowSelection", headerSort: false, width: 38, hozAlign: "center", titleFormatterParams: { rowRange: "active" } },
    { title: "question", field: "question", formatter: opener, widthGrow: 3, minWidth: 180 },
    { title: "of", field: "source", formatter: text, widthGrow: 1, minWidth: 140 },
    { title: "answer", field: "answer", formatter: text, widthGrow: 1, minWidth: 90 },
    { title: "ended", field: "outcome", formatter: text, minWidth: 80 },
    { title: "J", field: "j", formatter: number(2), width: 64, ...right },
    { title: "reward", field: "reward", formatter: number(2), width: 96, ...right },
    { title: "adv.", field: "advantage", formatter: number(2), width: 78, ...right },
    { title: "steps", field: "steps", width: 84, ...right },
    { title: "calls", field: "calls", width: 80, ...right },
    { title: "failed", field: "failed", width: 88, ...right },
    { title: "fullest", field: "fullest", formatter: (cell) => cell.getValue() === null ? "" : `${Math.round(100 * cell.getValue())} %`, width: 92, ...right },
    { title: "memory", field: "memories", width: 100, ...right },
  ].filter((column) => column.field !== "advantage" || rows.some((row) => row.advantage !== null));
  const table = new Tabulator("#table", {
    data: rows, columns, index: "id", layout: "fitColumns", height: rows.length > 12 ? "26rem" : false,
    placeholder: "No trajectory is like this.", selectableRows: 12, selectableRowsRollingSelection: true,
    selectableRowsCheck: () => true, printAsHtml: true, printRowRange: "visible",
  });
  const built = new Promise((done) => table.on("tableBuilt", done));
  table.on("dataFiltered", (_, kept) => {
    document.getElementById("count").value = `${kept.length} of ${rows.length}`;
  });
  table.on("rowSelectionChanged", (data) => {
    together.disabled = data.length < 2;
    together.textContent = data.length < 2 ? "side by side" : `${data.length} side by side`;
  });
  together.onclick = () => show(table.getSelectedData().map((row) => row.id));

  // ---- What is open

  async function show(ids) {
    open = ids;
    const parts = await Promise.all(ids.map(fragment));
    const panes = document.createElement("div");
    panes.className = ids.length > 1 ? "panes several" : "panes";
    parts.forEach((html, place) => {
      const pane = document.createElement("div");
      pane.className = "pane";
      pane.innerHTML = html; // escaped where it was made
      pane.querySelector(".trajectory").prepend(bar(rows[ids[place]], ids));
      panes.append(pane);
    });
    if (ids.length > 1) panes.querySelectorAll(".rewards").forEach((each) => { each.open = false; });
    detail.replaceChildren(panes);
    detail.querySelectorAll(".trajectory").forEach(walk);
    await built;
    remember();
    detail.focus({ preventScroll: true });
    detail.scrollIntoView({ block: "start" });
  }

  function bar(row, ids) {
    const made = document.createElement("p");
    made.className = "actions";
    const others = rows.filter((each) => each.group === row.group);
    const button = (told, action) => {
      const one = document.createElement("button");
      one.type = "button";
      one.textContent = told;
      one.onclick = action;
      made.append(one, " ");
    };
    if (ids.length > 1) button("this one alone", () => show([row.id]));
    else if (others.length > 1) button(`the ${others.length} of this task side by side`, () => show(others.map((each) => each.id)));
    button("close", () => { open = []; detail.replaceChildren(); remember(); });
    return made;
  }

  // Steps of one trajectory: which messages the prompt of each held.
  function walk(root) {
    const buttons = [...root.querySelectorAll(".steps button")];
    const told = root.querySelector(".told");
    const messages = [...root.querySelectorAll(".message")];
    let now = null;
    function go(step) {
      now = step;
      buttons.forEach((each) => each.setAttribute("aria-pressed", String(Number(each.dataset.step) === step)));
      root.classList.toggle("at-step", step !== null);
      let inside = 0;
      for (const each of messages) {
        const since = Number(each.dataset.since);
        const until = each.dataset.until === undefined ? Infinity : Number(each.dataset.until);
        each.classList.toggle("later", step !== null && since > step);
        each.classList.toggle("gone", step !== null && until <= step);
        inside += step !== null && since <= step && step < until;
      }
      if (told) told.textContent = step === null ? "Choose a step to see what its prompt held."
        : `${buttons[step].title}. Its prompt held the system message and ${inside} of ${messages.length} messages; what an edit took out is struck through, what a reset left behind is pale.`;
    }
    buttons.forEach((each) => { each.onclick = () => go(Number(each.dataset.step) === now ? null : Number(each.dataset.step)); });
    root.querySelectorAll("[data-go]").forEach((each) => {
      each.onclick = () => {
        if (each.dataset.go === "all") return go(null);
        const step = now === null ? (each.dataset.go === "1" ? 0 : buttons.length - 1) : now + Number(each.dataset.go);
        go(Math.min(buttons.length - 1, Math.max(0, step)));
      };
    });
  }

  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  window.addEventListener("hashchange", recall);
  built.then(() => { recall(); document.documentElement.dataset.ready = "yes"; });
})();
