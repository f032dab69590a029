// Addresses: of the page with other choices, of sessions, and of the rows in Datasette that make a number up.

/** The choices as they stand in the page's address; what is not said is as the page has it. */
export function choices(search = location.search) {
  const given = new URLSearchParams(search);
  return {
    since: given.get("since"),
    until: given.get("until"),
    projects: given.getAll("project"),
    models: given.getAll("model"),
    hosts: given.getAll("host"),
    measure: given.get("measure") === "tokens" ? "tokens" : "cost",
  };
}

export function query({ since, until, projects, models, hosts, measure }) {
  const search = new URLSearchParams();
  if (since) search.set("since", since);
  if (until) search.set("until", until);
  projects.forEach((project) => search.append("project", project));
  models.forEach((model) => search.append("model", model));
  hosts.forEach((host) => search.append("host", host));
  if (measure === "tokens") search.set("measure", measure);
  return search.size ? `?${search}` : "";
}

/** Links into the tables at an address; without one, in a report file, there are none. */
export function tables(base, wanted) {
  const quoted = (texts) => texts.map((text) => `'${text.replaceAll("'", "''")}'`).join(", ");
  const filters = [];
  if (wanted.projects.length) {
    const names = quoted(wanted.projects);
    filters.push(
      `session_id in (select s.id from sessions as s join projects as p on p.id = s.project_id where p.path in (${names}) or p.name in (${names}))`,
    );
  }
  // A row's owner stands in a file, and a file on a machine.
  const onHosts = `(select f.id from files as f join hosts as o on o.id = f.host_id where o.user || '@' || o.name in (${quoted(wanted.hosts)}))`;
  const ofModel = (models) => `model_id in (select id from models where name in (${quoted(models)}))`;
  const address = (table, parameters, wheres = []) => {
    if (!base) return null;
    const search = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined));
    wheres.forEach((where) => search.append("_where", where));
    return `${base}/${table}?${search}`;
  };
  const session = (path) => `session_id in (select s.id from sessions as s join projects as p on p.id = s.project_id where p.path = ${quoted([path])})`;
  return {
    /** Responses between two moments, in milliseconds. */
    responses({ first_at: first, last_at: last, model, project }) {
      const wheres = [...filters];
      if (model || wanted.models.length) wheres.push(ofModel(model ? [model] : wanted.models));
      if (project) wheres.push(session(project));
      if (wanted.hosts.length) wheres.push(`owner_id >> 40 in ${onHosts}`);
      return address("responses", { at__gte: first, at__lte: last, _sort_desc: "at" }, wheres);
    },
    calls({ first_at: first, last_at: last }, tool) {
      return address("tool_calls", { name: tool, started_at__gte: first, started_at__lte: last, _sort_desc: "started_at" }, filters);
    },
    agents: (type) => address("agents", { type }),
    table: (name, parameters = {}) => address(name, parameters),
  };
}
