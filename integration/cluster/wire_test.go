package cluster

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// wire is a TCP connection point in front of a server that can be cut: then
// nothing gets through in either direction, new connections are taken and go
// nowhere, and nobody is told. What was under way arrives when it is mended,
// as over a network that drops packets.
type wire struct {
	addr   string
	target string

	mu      sync.Mutex
	through chan struct{} // closed while it is whole
	conns   map[net.Conn]bool
	closed  bool
}

// newWire listens in front of target until the test ends.
func newWire(t *testing.T, target string) *wire {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	w := &wire{addr: l.Addr().String(), target: target, through: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(w.through)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.carry(t, c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.end()
		wg.Wait()
	})
	return w
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.through = make(chan struct{})
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.through)
}

// end closes all connections for good.
func (w *wire) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for c := range w.conns {
		_ = c.Close()
	}
	select {
	case <-w.through:
	default:
		close(w.through)
	}
}

// keep remembers a connection for end; false after that.
func (w *wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		_ = c.Close()
		return false
	}
	w.conns[c] = true
	return true
}

func (w *wire) drop(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
	_ = c.Close()
}

// pass waits until the wire is whole.
func (w *wire) pass() {
	w.mu.Lock()
	through := w.through
	w.mu.Unlock()
	<-through
}

func (w *wire) carry(t *testing.T, near net.Conn) {
	if !w.keep(near) {
		return
	}
	defer w.drop(near)
	w.pass()
	far, err := new(net.Dialer).DialContext(t.Context(), "tcp", w.target)
	if err != nil || !w.keep(far) {
		return
	}
	defer w.drop(far)
	var wg sync.WaitGroup
	for _, d := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			w.copy(d[0], d[1])
			if tcp, ok := d[1].(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		})
	}
	wg.Wait()
}

// copy forwards what src sends while the wire is whole.
func (w *wire) copy(src, dst net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		w.pass()
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) || err != nil {
			return
		}
	}
}
