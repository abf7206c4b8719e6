package client_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// house is a gateway with one key, as far as agents follow it: its versions
// are real keys, and its answers are those that a test says.
type house struct {
	t  *testing.T
	mu sync.Mutex

	private    map[uint32]*ecdsa.PrivateKey
	state      map[uint32]keys.State
	hidden     map[uint32]int // how many JWKS leave the version out yet
	secret     bool           // the key has no public keys
	subscribed bool
	acked      map[uint32]int
	events     []api.Event
	more       chan struct{} // closed when there are more events

	asked  map[string]int                    // requests, by method and path
	refuse func(r *http.Request) (err error) // nil: none is refused; errHangUp: without an answer
}

var errHangUp = errors.New("hang up")

func newHouse(t *testing.T) *house {
	h := &house{
		t: t, private: map[uint32]*ecdsa.PrivateKey{}, state: map[uint32]keys.State{}, hidden: map[uint32]int{},
		acked: map[uint32]int{}, more: make(chan struct{}), asked: map[string]int{},
	}
	h.generate(1, keys.Active)
	return h
}

func (h *house) generate(n uint32, state keys.State) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.private[n], h.state[n] = key, state
}

// set changes the house, and tells of it.
func (h *house) set(change func(), events ...api.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	for _, ev := range events {
		ev.ID, ev.Time = uint64(len(h.events)+1), api.At(time.Now())
		if ev.Type != api.EventReset {
			ev.Key = "payments"
		}
		h.events = append(h.events, ev)
	}
	close(h.more)
	h.more = make(chan struct{})
}

// announce makes version n and tells of it.
func (h *house) announce(n uint32) {
	h.generate(n, keys.PreActivation)
	h.set(func() {}, api.Event{Type: string(keys.NoticeAnnounced), Version: n})
}

func (h *house) count(request string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[request]
}

func (h *house) acks(n uint32) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked[n]
}

// sign returns a compact JWS by version n.
func (h *house) sign(n uint32) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	in := keys.SigningInput(keys.ES256, keys.VersionID{Key: "payments", Number: n}, []byte("hello"))
	digest := crypto.SHA256.New()
	digest.Write(in)
	r, s, err := ecdsa.Sign(rand.Reader, h.private[n], digest.Sum(nil))
	if err != nil {
		h.t.Fatal(err)
	}
	return keys.CompactJWS(in, append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), false)
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked[r.Method+" "+r.URL.Path]++
	var err error
	if h.refuse != nil {
		err = h.refuse(r)
	}
	h.mu.Unlock()
	switch {
	case errors.Is(err, errHangUp):
		hangUp(w)
		return
	case err != nil:
		refuse(w, api.ProblemOf(err))
		return
	case r.URL.Path == "/v1/events":
		h.stream(w, r)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/keys/payments"); {
	case r.Method == http.MethodPut && r.URL.Path == "/v1/subscriptions/payments":
		h.subscribed = true
		sub := api.Subscription{Key: "payments", Waiting: []uint32{}}
		for _, n := range h.numbers() {
			if h.state[n].Published() && h.acked[n] == 0 {
				sub.Waiting = append(sub.Waiting, n)
			}
		}
		reply(w, 200, sub)
	case path == "/jwks.json":
		reply(w, 200, h.jwks())
	case path == "/status.json":
		set := api.StatusSet{Keys: []api.KeyStatus{}}
		for _, n := range h.numbers() {
			if !h.secret && h.hidden[n] == 0 {
				set.Keys = append(set.Keys, api.KeyStatus{KeyID: fmt.Sprintf("payments.v%d", n), State: string(h.state[n])})
			}
		}
		reply(w, 200, set)
	case path == "":
		k := api.Key{Name: "payments"}
		for _, n := range h.numbers() {
			v := api.Version{Version: n, State: string(h.state[n])}
			if !h.secret {
				v.PublicKey = publicPEM(h.t, h.private[n].Public())
			}
			k.Versions = append(k.Versions, v)
		}
		reply(w, 200, k)
	case strings.HasSuffix(path, "/ack"):
		n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(path, "/versions/"), "/ack"), 10, 32)
		if !h.subscribed {
			refuse(w, api.ProblemOf(keys.ErrNotSubscribed))
			return
		}
		h.acked[uint32(n)]++
		reply(w, 200, api.Ack{Key: "payments", Version: uint32(n)})
	default:
		refuse(w, api.ProblemOf(keys.ErrNotFound))
	}
}

func (h *house) numbers() []uint32 { return slices.Sorted(maps.Keys(h.private)) }

func (h *house) jwks() api.JWKS {
	set := api.JWKS{Keys: []api.JWK{}}
	b64 := base64.RawURLEncoding.EncodeToString
	for _, n := range h.numbers() {
		if h.hidden[n] > 0 {
			h.hidden[n]--
			continue
		}
		if h.secret || !h.state[n].Published() {
			continue
		}
		point, err := h.private[n].PublicKey.Bytes()
		if err != nil {
			h.t.Error(err)
		}
		set.Keys = append(set.Keys, api.JWK{
			KeyType: "EC", Use: "sig", Algorithm: "ES256", KeyID: fmt.Sprintf("payments.v%d", n), Curve: "P-256", X: b64(point[1:33]), Y: b64(point[33:]),
		})
	}
	return set
}

func (h *house) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprint(w, "retry: 10\n\n")
	h.mu.Lock()
	next := len(h.events)
	h.mu.Unlock()
	if id, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); err == nil {
		next = id
	}
	for r.Context().Err() == nil {
		h.mu.Lock()
		more, down := h.more, h.refuse != nil && errors.Is(h.refuse(r), errHangUp)
		events := h.events[next:]
		next += len(events)
		h.mu.Unlock()
		if down {
			hangUp(w)
			return
		}
		for _, ev := range events {
			_, _ = fmt.Fprintf(w, "id: %d\nevent: %s\ndata: ", ev.ID, ev.Type)
			reply(noHeader{w}, 0, ev)
			_, _ = fmt.Fprint(w, "\n")
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
		case <-more:
		}
	}
}

// noHeader lets reply write a body alone.
type noHeader struct{ http.ResponseWriter }

func (noHeader) Header() http.Header { return http.Header{} }
func (noHeader) WriteHeader(int)     {}

// watch runs a Watch over the house until the test ends.
func (h *house) watch(with ...func(*client.WatchConfig)) *client.Watch {
	h.t.Helper()
	c := h.client()
	cfg := client.WatchConfig{Keys: []string{"payments"}}
	for _, f := range with {
		f(&cfg)
	}
	w, err := c.Watch(cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan error, 1)
	stop := make(chan struct{})
	ctx := contextUntil(h.t, stop)
	go func() { ended <- w.Run(ctx) }()
	h.t.Cleanup(func() {
		close(stop)
		if err := <-ended; err != nil {
			h.t.Errorf("Run: %v", err)
		}
	})
	return w
}

// client returns a client of a server before the house.
func (h *house) client() *client.Client {
	h.t.Helper()
	s, ca := serve(h.t, h.ServeHTTP, http1)
	h.t.Cleanup(s.CloseClientConnections)
	c, err := client.New(client.Config{Address: s.URL, CACertFile: ca, Token: client.TokenString("t0ken"), Timeout: 10 * time.Second})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

var _ http.Handler = (*house)(nil)
