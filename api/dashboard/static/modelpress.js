// What pages do beyond htmx: theme, copying, the word "Live", and uploads. Every page can be read without it.
(() => {
  const root = document.documentElement;
  const say = (words) => { document.getElementById("say").textContent = words; };

  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const switchTheme = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  };

  const copyText = async (button) => {
    const source = document.getElementById(button.dataset.from);
    // Browsers give no clipboard to pages without TLS; then the text is selected, ready to be copied.
    if (!navigator.clipboard) return getSelection().selectAllChildren(source);
    await navigator.clipboard.writeText(source.textContent.trim());
    button.lastElementChild.textContent = "Copied";
    say("Copied");
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button?.dataset.do === "theme") switchTheme();
    if (button?.dataset.do === "copy") copyText(button);
  });

  // The stream of a job: the word beside the title tells whether the page follows it.
  const showLive = (words, isLost) => {
    const live = document.getElementById("live");
    if (!live) return;
    live.textContent = words;
    live.classList.toggle("lost", isLost);
  };
  document.addEventListener("htmx:sse:after:connection", () => showLive("Live", false));
  for (const name of ["htmx:sse:error", "htmx:sse:close"]) {
    document.addEventListener(name, () => showLive(`Reconnecting, as of ${new Date().toLocaleTimeString()}`, true));
  }

  // A hidden page asks for nothing; it catches up when it is seen again.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden && event.target.classList?.contains("poll") && event.target.id !== "stream") event.preventDefault();
  });

  // The log follows its newest line unless the reader has scrolled up; a change of state is spoken.
  let isFollowing = true;
  let state = "";
  const atEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  const follow = () => {
    const log = document.getElementById("log-lines");
    if (log && isFollowing) log.scrollTop = log.scrollHeight;
    const now = document.getElementById("state")?.textContent.trim() ?? "";
    if (state && now !== state) say(now);
    state = now;
  };
  document.addEventListener("scroll", (event) => {
    if (event.target.id === "log-lines") isFollowing = atEnd(event.target);
  }, true);
  document.addEventListener("htmx:after:swap", follow);
  document.addEventListener("DOMContentLoaded", follow);

  // Files go up one by one as raw bodies, with progress; the form then carries only the ids of the uploads.
  const send = ({ file, name }, token, onProgress) => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/uploads?filename=${encodeURIComponent(name)}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-CSRF-Token", token);
    request.setRequestHeader("Idempotency-Key", Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-"));
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded);
    request.onload = () => request.status < 300
      ? resolve(request.response.id)
      : reject(new Error(request.response?.detail ?? `The server answered ${request.status}.`));
    request.onerror = () => reject(new Error("The connection was lost. Try again."));
    request.send(file);
  });

  // Of a folder only what may be part of its model, as `modelpress upload FOLDER` chooses.
  const isOfModel = /^([^/.][^/]*\.(json|txt|model|jinja|safetensors|onnx|onnx_data|data|pt2)|\d+_[A-Za-z]+\/config\.json)$/i;
  const chosenFiles = (form) => [...form.querySelectorAll("input[type=file]")].flatMap((input) => [...input.files].map((file) => ({
    file, name: input.webkitdirectory ? file.webkitRelativePath.replace(/^[^/]*\//, "") : file.name, isListed: input.webkitdirectory,
  }))).filter(({ name, isListed }) => !isListed || isOfModel.test(name));

  const upload = async (form) => {
    const files = chosenFiles(form);
    const [box, says, button] = [".upload", "[data-upload-says]", "[type=submit]"].map((part) => form.querySelector(part));
    const bar = box.querySelector("progress");
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    const total = files.reduce((sum, { file }) => sum + file.size, 0);
    const ids = [];
    let done = 0;
    box.hidden = false;
    button.setAttribute("aria-disabled", "true");
    says.className = "hint";
    try {
      if (!files.length) throw new Error("Choose the files of the upload first.");
      for (const each of files) {
        ids.push(await send(each, form.elements.csrf_token.value, (sent) => {
          bar.value = 100 * (done + sent) / (total || 1);
          says.textContent = `${files.length > 1 ? `${each.name}, ` : ""}${megabytes(done + sent)} of ${megabytes(total)} MB`;
        }));
        done += each.file.size;
      }
      form.elements.upload.value = ids.join(",");
      form.submit();
    } catch (error) {
      says.className = "error";
      says.textContent = error.message;
      box.hidden = true;
      button.removeAttribute("aria-disabled");
    }
  };

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-upload]")) return;
    event.preventDefault();
    const button = event.target.querySelector("[type=submit]");
    if (button.getAttribute("aria-disabled") !== "true") upload(event.target);
  });
})();
