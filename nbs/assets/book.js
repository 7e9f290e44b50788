// Search when the book is opened as a file: a browser then refuses to fetch search.json, but it does load search.js.
(() => {
  if (location.protocol !== "file:") return;
  const fetchFromHost = window.fetch.bind(window);
  window.fetch = (address, options) => {
    if (!/(^|\/)search\.json$/.test(String(address))) return fetchFromHost(address, options);
    return new Promise((resolve, reject) => {
      const answer = () => resolve(new Response(JSON.stringify(window.gptbookSearch)));
      if (window.gptbookSearch) return answer();
      const script = document.createElement("script");
      script.src = String(address).replace(/\.json$/, ".js");
      script.onload = answer;
      script.onerror = reject;
      document.head.append(script);
    });
  };
})();
