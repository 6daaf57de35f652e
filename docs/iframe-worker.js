// Browsers start no workers for pages that are opened as files. The search of the theme then runs
// in a hidden frame, which is given what the script of a worker expects. Theme: extra.polyfills.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<script>
        self.postMessage = (data) => parent.postMessage(data, "*");
        self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() =>
          new Promise((loaded) => {
            const script = document.createElement("script");
            script.src = url;
            script.onload = loaded;
            document.body.appendChild(script);
          })), Promise.resolve());
      <\/script><body><script src="${url}"><\/script></body>`;
      this.ready = new Promise((loaded) => this.frame.addEventListener("load", loaded));
      window.addEventListener("message", (event) => {
        if (event.source === this.frame.contentWindow)
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      const append = () => document.body.appendChild(this.frame);
      if (document.body) append();
      else document.addEventListener("DOMContentLoaded", append);
    }
    postMessage(data) {
      this.ready.then(() =>
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
  window.Worker = window.IFrameWorker;
}
