import "./style.css";
import { Api, parseAddress, Refusal } from "./api";
import { App } from "./app";
import { h } from "./dom";
import { sentence } from "./words";

declare global {
  interface Window {
    /** For measurements and tests. */
    roireg?: App;
  }
}

const mount = document.querySelector<HTMLElement>("#app")!;

function tell(text: string): void {
  mount.replaceChildren(h("div", { class: "start" }, h("h1", {}, "roireg"), h("p", { role: "alert" }, text)));
}

async function open(): Promise<void> {
  const address = parseAddress(location.hash);
  if (!address.token) {
    tell("This address is not complete. Open the whole address that `roireg view` printed, with everything after the #.");
    return;
  }
  try {
    const sessions = await new Api(address.token, "").sessions();
    const name = address.session ?? (sessions.length === 1 ? sessions[0]!.name : null);
    if (name === null) {
      choose(address.token, sessions);
      return;
    }
    const api = new Api(address.token, name);
    window.roireg = new App(api, await api.state(), mount);
  } catch (e) {
    if (e instanceof Refusal && e.status === 401) tell("This address is of an earlier start. Open the address that the server printed last.");
    else if (e instanceof Refusal) tell(`This pair is not open: ${e.message}.`);
    else tell("The server does not answer. Start it again with `roireg view`, and open the address that it prints.");
  }
}

/** A server without a pair, or with several: choose one, or open two files. */
function choose(token: string, sessions: { name: string; fixed: string; moving: string }[]): void {
  const api = new Api(token, "");
  const status = h("p", { role: "status" });
  const go = (name: string): void => {
    location.hash = `token=${token}&session=${name}`;
  };
  const form = h(
    "form",
    {
      submit: (e: Event) => {
        e.preventDefault();
        const files = [...form.querySelectorAll<HTMLInputElement>("input[type=file]")].map((i) => i.files?.[0]);
        if (!files[0] || !files[1]) {
          status.textContent = "Choose both images.";
          return;
        }
        status.textContent = "Reading the images …";
        Promise.all(files.map((f, k) => api.upload(`${k ? "moving" : "fixed"}-${f!.name.replace(/[^A-Za-z0-9._-]/g, "_")}`, f!)))
          .then(([fixed, moving]) => api.open({ fixed: fixed!, moving: moving! }))
          .then((state) => go(state.name))
          .catch((error: Error) => (status.textContent = sentence(error.message)));
      },
    },
    h("label", {}, "Fixed image, the one that stays ", h("input", { type: "file", required: true })),
    h("label", {}, "Moving image, the one that is brought onto it ", h("input", { type: "file", required: true })),
    h("button", { class: "primary" }, "Open"),
    status,
  );
  mount.replaceChildren(
    h(
      "div",
      { class: "start" },
      h("h1", {}, "roireg"),
      ...(sessions.length ? [h("h2", {}, "Open pairs"), h("ul", {}, ...sessions.map((s) => h("li", {}, h("button", { class: "link", click: () => go(s.name) }, `${s.moving} onto ${s.fixed}`))))] : []),
      h("h2", {}, "Open two images"),
      form,
    ),
  );
}

window.addEventListener("hashchange", () => location.reload());
void open();
