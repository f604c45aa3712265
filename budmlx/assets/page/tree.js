// A conversation: a tree of messages, in which each reply that was made anew and each message that
// was edited is a branch. One way through it is shown.

const id = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;

export const ROOT = "";

export function conversation(settings) {
  const now = Date.now();
  return { id: id(), title: "", created: now, updated: now, settings, messages: {}, chosen: {} };
}

/** Adds a message after another one, and shows it. */
export function add(tree, parent, message) {
  const made = { ...message, id: id(), parent };
  tree.messages[made.id] = made;
  tree.chosen[parent] = made.id;
  tree.updated = Date.now();
  return made;
}

export function children(tree, parent) {
  return Object.values(tree.messages).filter((message) => message.parent === parent);
}

/** The messages that are shown, first to last. */
export function path(tree) {
  const found = [];
  const seen = new Set();
  let parent = ROOT;
  for (;;) {
    const among = children(tree, parent);
    const next = among.find((message) => message.id === tree.chosen[parent]) ?? among.at(-1);
    if (!next || seen.has(next.id)) return found;
    seen.add(next.id);
    found.push(next);
    parent = next.id;
  }
}

/** The messages before one, first to last. */
export function before(tree, message) {
  const found = [];
  for (let at = tree.messages[message.parent]; at; at = tree.messages[at.parent]) found.unshift(at);
  return found;
}

/** Shows the branch that is so many places away. */
export function turn(tree, message, step) {
  const among = children(tree, message.parent);
  const other = among[among.findIndex((each) => each.id === message.id) + step];
  if (other) tree.chosen[message.parent] = other.id;
}

/** A message as the server takes it. */
export function wire({ role, content, pictures = [], reasoning, calls = [], call }) {
  if (role === "tool") return { role, content, tool_call_id: call };
  if (role === "user" && pictures.length) {
    const parts = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
    return { role, content: content ? [...parts, { type: "text", text: content }] : parts };
  }
  const made = { role, content };
  if (reasoning) made.reasoning_content = reasoning;
  if (calls.length) {
    made.tool_calls = calls.map((each) => ({
      id: each.id, type: "function", function: { name: each.name, arguments: each.arguments },
    }));
  }
  return made;
}

/** Whether a value, from a file, has the shape of a conversation. */
export function valid(tree) {
  const texts = [tree?.id, tree?.title].every((each) => typeof each === "string");
  const maps = [tree?.messages, tree?.chosen, tree?.settings].every(
    (each) => each && typeof each === "object" && !Array.isArray(each));
  return texts && maps && Object.entries(tree.messages).every(([name, message]) =>
    message?.id === name && typeof message.parent === "string" && typeof message.content === "string" &&
    ["user", "assistant", "tool"].includes(message.role) &&
    [message.pictures ?? [], message.calls ?? [], message.warnings ?? []].every(Array.isArray));
}
