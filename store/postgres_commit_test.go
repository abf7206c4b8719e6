package store_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"keyhole/store/storetest"
)

// cutter is a way to a server that breaks at a commit.
type cutter struct {
	net.Listener
	to string

	mu  sync.Mutex
	cut string // "": nowhere; "before" or "behind" the server has heard of it
	hit int    // how often it was cut
}

// commitMessage is a commit in PostgreSQL's protocol.
var commitMessage = append([]byte{'Q', 0, 0, 0, 11}, "commit\x00"...)

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, to: to}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.carry(client) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return c
}

func (c *cutter) set(cut string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.hit = cut, 0
}

func (c *cutter) hits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hit
}

// carry carries bytes both ways, until one side ends or it is cut.
func (c *cutter) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer server.Close()
	var silent sync.Mutex // while it is held, the client hears nothing
	go func() {
		defer client.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			silent.Lock()
			_, err = client.Write(buf[:n])
			silent.Unlock()
			if err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		cut := c.cut
		if !bytes.Contains(buf[:n], commitMessage) {
			cut = ""
		} else if cut != "" {
			c.hit++
		}
		c.mu.Unlock()
		if cut == "before" {
			return
		}
		if cut == "behind" {
			silent.Lock() // for good: the answer is not carried
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
		if cut == "behind" {
			// The server has done what it was told when it has ended the session.
			if _, err := server.Write([]byte{'X', 0, 0, 0, 4}); err != nil {
				return
			}
			client.Close()
			silent.Unlock()
			io.Copy(io.Discard, server)
			return
		}
	}
}

// TestCommitWithoutAnswer: whether it was made is not known, which is said;
// and it is not made twice.
func TestCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	s, d := newPostgres(t)
	c, between := config(d), newCutter(t, d.Server.Addr)
	u, err := url.Parse(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = between.Addr().String()
	c.URL = u.String()
	cut := postgresAt(t, c)
	closeAtEnd(t, cut)
	k := storetest.NewKey("payments", 1)
	create(t, cut, k)
	for _, where := range []string{"before", "behind", "before", "behind"} {
		between.set(where)
		next, err := advance(t.Context(), cut, k)
		unavailable(t, "cut "+where, err)
		if n := between.hits(); n != 1 {
			t.Errorf("cut %s the commit, %d times", where, n)
		}
		between.set("")
		// The server may still be at it: what it does before it answers the
		// next one is all that it does.
		if err := s.BlockAgent(t.Context(), "somebody", nil); err == nil {
			t.Error("an unknown agent was unblocked")
		}
		now, err := s.Key(t.Context(), "payments")
		if err != nil {
			t.Fatal(err)
		}
		if where == "behind" {
			k = next
		}
		if now.Epoch != k.Epoch || now.Description != k.Description {
			t.Errorf("cut %s: epoch %d, want %d", where, now.Epoch, k.Epoch)
		}
		if _, revision, err := cut.Load(t.Context()); err != nil || revision != k.Epoch {
			t.Errorf("revision %d at epoch %d, %v", revision, k.Epoch, err)
		}
	}
	if _, err := advance(t.Context(), cut, k); err != nil {
		t.Errorf("with the way open: %v", err)
	}
}
