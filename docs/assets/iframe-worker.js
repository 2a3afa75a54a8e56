// Browsers start no workers for a page that is opened from disk. There the search runs in a hidden frame in its place.
// (The site's theme would fetch a script of this name from another host; this one asks nobody for anything.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.document.open()
      this.inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.started = new Promise(resolve => {
        this.inside.started = resolve
      })
      const source = String(url).replaceAll("&", "&amp;").replaceAll('"', "&quot;")
      this.inside.document.write(`<script src="${source}" onload="started()"></` + "script>")
      this.inside.document.close()
    }

    postMessage(data) {
      this.started.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
