// Node's `ws`.
const { WebSocketServer } = require("ws");

const reply = {
  chat: (m) => ({ type: "reply", kind: "chat", seq: m.seq, ok: true, text: m.text }),
  join: (m) => ({ type: "reply", kind: "join", seq: m.seq, ok: true, text: m.client }),
  move: (m) => ({ type: "reply", kind: "move", seq: m.seq, ok: m.grounded, text: m.obj }),
  order: (m) => ({ type: "reply", kind: "order", seq: m.seq, ok: m.qty >= 1, text: m.note }),
  ack: (m) => ({ type: "reply", kind: "ack", seq: m.seq, ok: m.ok, text: m.detail }),
};

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: false,
});
server.on("connection", (socket, request) => {
  socket.on("error", () => {});
  if (request.url === "/echo") {
    socket.on("message", (data, binary) => socket.send(data, { binary }));
  } else {
    socket.on("message", (data) => {
      const message = JSON.parse(data);
      socket.send(JSON.stringify(reply[message.type](message)));
    });
  }
});
