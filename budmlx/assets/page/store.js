// What stays in the browser: conversations in IndexedDB, the rest in localStorage.

const STORE = "conversations";
let opened = null;
const memory = new Map();

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("budmlx", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, act) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Whether conversations stay when the page is closed; some private windows do not let them. */
export async function lasts() {
  return open().then(() => true, () => false);
}

export async function all() {
  const found = (await lasts()) ? await run("readonly", (store) => store.getAll()) : [...memory.values()];
  return found.sort((a, b) => b.updated - a.updated);
}

export async function save(tree) {
  if (await lasts()) await run("readwrite", (store) => store.put(structuredClone(tree)));
  else memory.set(tree.id, tree);
}

export async function remove(id) {
  if (await lasts()) await run("readwrite", (store) => store.delete(id));
  memory.delete(id);
}

export function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`budmlx.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`budmlx.${name}`, JSON.stringify(value));
  } catch {
    // It is full or forbidden; what is chosen holds until the page is closed.
  }
}
