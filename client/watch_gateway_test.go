package client_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

// world is a whole gateway with an administrator.
type world struct {
	*gatewaytest.Gateway
	admin *client.Client
}

func newWorld(t *testing.T, o gatewaytest.Options) *world {
	t.Helper()
	w := &world{Gateway: gatewaytest.Start(t, o)}
	w.admin = w.as(t, "alice", gatewaytest.Admins)
	return w
}

func (w *world) config(t *testing.T, subject string, groups ...string) client.Config {
	t.Helper()
	return client.Config{Address: w.URL, CACertFile: w.CAFile, Token: client.TokenFile(w.TokenFile(t, subject, groups...))}
}

func (w *world) as(t *testing.T, subject string, groups ...string) *client.Client {
	t.Helper()
	c, err := client.New(w.config(t, subject, groups...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// reaches waits until a rotation is in a phase.
func (w *world) reaches(t *testing.T, id string, phase keys.Phase) api.Rotation {
	t.Helper()
	var r api.Rotation
	eventually(t, "rotation "+id+" is "+string(phase), func() bool {
		var err error
		if r, err = w.admin.Rotation(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return r.Phase == string(phase)
	})
	return r
}

var acksOfAll = &api.Policy{Acks: &api.Acks{Require: "all", Timeout: api.Duration(time.Hour)}}

// The agent of the example goes on across rotations that wait for it.
func TestAgentAcrossRotations(t *testing.T) {
	t.Parallel()
	g := newWorld(t, gatewaytest.Options{})
	if _, err := g.admin.CreateKey(t.Context(), api.CreateKeyRequest{Name: "payments", Algorithm: "ES256", Policy: acksOfAll}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	messages, signed, ended := make(chan []byte), make(chan string), make(chan error, 1)
	go func() { ended <- agent(ctx, g.config(t, "bob", gatewaytest.Agents), messages, signed) }()
	sign := func() (kid string) {
		t.Helper()
		select {
		case messages <- []byte("hello"):
		case err := <-ended:
			t.Fatalf("the agent ended: %v", err)
		}
		select {
		case jws := <-signed:
			parsed, err := keys.ParseJWS(jws, nil)
			if err != nil {
				t.Fatal(err)
			}
			return parsed.Header.KeyID
		case err := <-ended:
			t.Fatalf("the agent ended: %v", err)
		}
		return ""
	}
	is(t, sign(), "payments.v1")
	for _, to := range []string{"payments.v2", "payments.v3"} {
		r, err := g.admin.Rotate(t.Context(), "payments", api.RotateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		sign()
		r = g.reaches(t, r.ID, keys.PhaseCompleted)
		if r.Acks == nil || len(r.Acks.Acknowledged) != 1 || r.Acks.Acknowledged[0].Principal != gatewaytest.Principal("bob") {
			t.Errorf("acknowledged by %+v", r.Acks)
		}
		is(t, sign(), to)
	}
	k, err := g.admin.Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 3}, api.VersionActRequest{})
	if err != nil || k.ActiveVersion != 4 {
		t.Fatalf("the active version is %d, %v", k.ActiveVersion, err)
	}
	is(t, sign(), "payments.v4")
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the agent's end: %v", err)
	}
}

// What a Watch answers is what the gateway answers, for every algorithm, in
// every state, about good signatures and bad.
func TestWatchAnswersAsTheGateway(t *testing.T) {
	t.Parallel()
	g := newWorld(t, gatewaytest.Options{})
	bob := g.as(t, "bob", gatewaytest.Agents)
	var names []string
	for _, alg := range keys.Algorithms() {
		if alg.Purpose() == keys.PurposeSign {
			name := strings.ToLower(string(alg))
			create(t, g.admin, name, alg)
			names = append(names, name)
		}
	}
	w, err := bob.Watch(client.WatchConfig{Keys: names})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	defer wg.Wait()
	defer stop()
	ready(t, w)

	same := func(name, what string, req api.VerifyRequest) {
		t.Helper()
		want, werr := bob.Verify(t.Context(), name, req)
		got, err := w.Verify(t.Context(), name, req)
		if strings.HasPrefix(name, "hs") {
			if !errors.Is(err, keys.ErrWrongPurpose) && !errors.Is(err, keys.ErrVersionNotFound) {
				t.Errorf("%s, %s: %+v, %v; there is no public key", name, what, got, err)
			}
			return
		}
		if got != want && werr == nil || api.CodeOf(err) != api.CodeOf(werr) {
			t.Errorf("%s, %s: %+v, %v; the gateway says %+v, %v", name, what, got, err, want, werr)
		}
	}
	for _, name := range names {
		payload := []byte("hello")
		for _, format := range []string{api.FormatRaw, api.FormatDER} {
			s, err := bob.Sign(t.Context(), name, api.SignRequest{Payload: payload, Format: format})
			if err != nil {
				t.Fatal(err)
			}
			req := api.VerifyRequest{Payload: payload, Signature: s.Signature, Version: s.Version, Format: format}
			same(name, format, req)
			bad := req
			bad.Payload = []byte("hullo")
			same(name, "another payload", bad)
			bad = req
			bad.Signature = slices.Clone(req.Signature)
			bad.Signature[len(bad.Signature)/2] ^= 1
			same(name, "another signature", bad)
			bad = req
			bad.Signature = bytes.Join([][]byte{req.Signature, {0}}, nil)
			same(name, "one byte more", bad)
			if name == "es256" { // each costs a second: readings for strangers are apart
				bad = req
				bad.Version = 99
				same(name, "another version", bad)
			}
			digest := crypto.SHA256.New()
			digest.Write(payload)
			same(name, "a SHA-256 digest", api.VerifyRequest{Digest: digest.Sum(nil), Hash: "sha-256", Signature: s.Signature, Version: 1, Format: format})
		}
		for _, format := range []string{api.FormatJWS, api.FormatJWSDetached} {
			s, err := bob.Sign(t.Context(), name, api.SignRequest{Payload: payload, Format: format})
			if err != nil {
				t.Fatal(err)
			}
			req := api.VerifyRequest{JWS: s.JWS}
			if format == api.FormatJWSDetached {
				req.Payload = payload
			}
			same(name, format, req)
			parts := strings.Split(s.JWS, ".")
			same(name, "a JWS with another payload", api.VerifyRequest{JWS: parts[0] + ".eA." + parts[2]})
		}
	}
	// States: suspended, resumed, rotated, revoked.
	s, err := bob.Sign(t.Context(), "es256", api.SignRequest{Payload: []byte("x"), Format: api.FormatJWS})
	if err != nil {
		t.Fatal(err)
	}
	req := api.VerifyRequest{JWS: s.JWS}
	v1 := keys.VersionID{Key: "es256", Number: 1}
	state := func(want keys.State) {
		t.Helper()
		eventually(t, "es256.v1 is known to be "+string(want), func() bool { return w.Versions("es256")[len(w.Versions("es256"))-1].State == want })
		same("es256", string(want), req)
	}
	for _, step := range []struct {
		act  func(*client.Client, context.Context, keys.VersionID, api.VersionActRequest) (api.Key, error)
		want keys.State
	}{
		{(*client.Client).Suspend, keys.Suspended}, {(*client.Client).Resume, keys.Active}, {(*client.Client).Revoke, keys.Compromised},
	} {
		if _, err := step.act(g.admin, t.Context(), v1, api.VersionActRequest{}); err != nil {
			t.Fatal(err)
		}
		state(step.want)
	}
}

// The events of a rotation come in order, to whoever follows and to whoever
// comes later.
func TestRealEvents(t *testing.T) {
	t.Parallel()
	g := newWorld(t, gatewaytest.Options{})
	create(t, g.admin, "payments", keys.ES256)
	create(t, g.admin, "mail", keys.A256GCM)
	if _, err := g.admin.Rotate(t.Context(), "mail", api.RotateRequest{}); err != nil {
		t.Fatal(err)
	}
	bob := g.as(t, "bob", gatewaytest.Agents)
	live := make(chan string, 16)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ev, err := range bob.Events(ctx, client.EventOptions{Keys: []string{"payments"}}) {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("the stream: %v", err)
				}
				return
			}
			live <- ev.Type + " " + ev.KeyID
		}
	})
	defer wg.Wait()
	defer stop()
	r, err := g.admin.Rotate(t.Context(), "payments", api.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	g.reaches(t, r.ID, keys.PhaseCompleted)
	var all []string
	var last uint64
	for ev, err := range bob.Events(t.Context(), client.EventOptions{Keys: []string{"payments"}, After: new(uint64(0))}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.ID <= last || ev.Key != "payments" || ev.Time.IsZero() {
			t.Errorf("behind %d came %+v", last, ev)
		}
		last = ev.ID
		all = append(all, ev.Type+" "+ev.KeyID)
		if ev.Type == string(keys.NoticeDeactivated) {
			break
		}
	}
	for _, want := range []string{"version.activated payments.v1", "version.activated payments.v2", "version.deactivated payments.v1"} {
		if !slices.Contains(all, want) {
			t.Errorf("%q are without %s", all, want)
		}
	}
	_, err = bob.Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{})
	if !errors.Is(err, keys.ErrForbidden) {
		t.Errorf("an agent revokes: %v", err)
	}
	if _, err = g.admin.Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{}); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case got := <-live:
			if got == "version.revoked payments.v1" {
				return
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the revocation is not heard of")
		}
	}
}
