// The form that asks a person for a token, on the service's page and on the review page.

const byId = (id) => document.getElementById(id);
let unlocked = null; // a promise, while a person is asked

// Gives the token when a person has typed one; all requests that were turned away wait for the same one.
export function unlock(problem) {
  const form = byId("unlock");
  byId("unlock-problem").textContent = problem;
  form.hidden = false;
  unlocked ??= new Promise((resolve) => {
    byId("token").focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = byId("token").value.trim();
      sessionStorage.setItem("token", token); // kept until the tab is closed
      form.reset();
      form.hidden = true;
      unlocked = null;
      resolve(token);
    }, { once: true });
  });
  return unlocked;
}
