package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// rotationReport is what rotating costs the data plane: latencies while
// nothing rotates (before and after, the worse one counts) and while it does.
type rotationReport struct {
	Name       string  `json:"name"`
	Rotations  int     `json:"rotations"`
	Requests   int64   `json:"requests"`
	Failed     int64   `json:"failed"`
	QuietP99   float64 `json:"quiet_p99_ms"`
	BusyP99    float64 `json:"busy_p99_ms"`
	Ratio      float64 `json:"p99_ratio"`
	Throughput float64 `json:"throughput_ratio"` // of the quiet one
	Seconds    float64 `json:"seconds"`
}

// conns is how many connections sign, and as many encrypt.
const conns = 8

// rotationBench measures a rotation every second, and many keys due at once.
func rotationBench(ctx context.Context, a *arena, many int, quiet, busy time.Duration) ([]rotationReport, error) {
	admin, err := a.client("admin")
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	each, err := everySecond(ctx, a, admin, quiet, busy)
	if err != nil {
		return nil, fmt.Errorf("a rotation every second: %w", err)
	}
	all, err := dueAtOnce(ctx, a, admin, many, quiet)
	if err != nil {
		return nil, fmt.Errorf("%d keys due at once: %w", many, err)
	}
	return []rotationReport{each, all}, nil
}

func (a *arena) client(who string) (*client.Client, error) {
	return client.New(client.Config{
		Address: "https://" + a.target.addr, CACertFile: filepath.Join(a.dir, "ca.crt"), Token: client.TokenFile(filepath.Join(a.dir, who+".jwt")),
	})
}

// mixed keeps the signing and the encryption key busy and counts what was
// answered. Any answer but a success is an error.
func (a *arena) mixed(ctx context.Context, d time.Duration) (result, int64, error) {
	sign, err := json.Marshal(api.SignRequest{Payload: make([]byte, 64)})
	if err != nil {
		return result{}, 0, err
	}
	encrypt, err := json.Marshal(api.EncryptRequest{Plaintext: make([]byte, 1024)})
	if err != nil {
		return result{}, 0, err
	}
	var wg sync.WaitGroup
	var res [2]result
	var errs [2]error
	wg.Go(func() { res[0], errs[0] = load(ctx, a.target, "/v1/keys/rot-sign/sign", sign, conns, 1, d) })
	wg.Go(func() { res[1], errs[1] = load(ctx, a.target, "/v1/keys/rot-encrypt/encrypt", encrypt, conns, 1, d) })
	wg.Wait()
	both := result{perSecond: res[0].perSecond + res[1].perSecond, p50: max(res[0].p50, res[1].p50), p99: max(res[0].p99, res[1].p99)}
	return both, int64(both.perSecond * d.Seconds()), errors.Join(errs[:]...)
}

// everySecond rotates both keys once a second under load, while agents
// follow and verify what was signed with the keys that they have heard of.
func everySecond(ctx context.Context, a *arena, admin *client.Client, quiet, busy time.Duration) (rotationReport, error) {
	r := rotationReport{Name: "rotation-every-second", Seconds: busy.Seconds()}
	for name, alg := range map[string]string{"rot-sign": "ES256", "rot-encrypt": "A256GCM"} {
		if _, err := admin.CreateKey(ctx, api.CreateKeyRequest{Name: name, Algorithm: alg}); err != nil {
			return r, err
		}
	}
	agents, stop, err := followers(ctx, a, 4)
	if err != nil {
		return r, err
	}
	defer stop()
	before, _, err := a.mixed(ctx, quiet)
	if err != nil {
		return r, err
	}
	rotating, cancel := context.WithCancel(ctx)
	defer cancel()
	var rotations atomic.Int64
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		failed <- everyTick(rotating, time.Second, func() error {
			for _, name := range []string{"rot-sign", "rot-encrypt"} {
				if _, err := admin.Rotate(rotating, name, api.RotateRequest{}); err != nil && rotating.Err() == nil {
					return err
				}
				rotations.Add(1)
			}
			return nil
		})
	})
	during, requests, err := a.mixed(ctx, busy)
	cancel()
	wg.Wait()
	if err = errors.Join(err, <-failed); err != nil {
		return r, err
	}
	after, _, err := a.mixed(ctx, quiet)
	if err != nil {
		return r, err
	}
	r.Rotations, r.Requests, r.Failed = int(rotations.Load()), requests, agents.failed.Load()
	r.fill(before, after, during)
	fmt.Fprintf(os.Stderr, "  4 agents verified %d signatures across %d rotations, %d did not hold\n", agents.verified.Load(), r.Rotations, r.Failed)
	return r, nil
}

// everyTick calls f once per interval until ctx ends.
func everyTick(ctx context.Context, interval time.Duration, f func() error) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := f(); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// audience is agents that sign and verify by themselves.
type audience struct {
	verified, failed atomic.Int64
}

// followers starts n agents. Each signs ten times a second and verifies the
// signature in software with the keys that its Watch keeps.
func followers(ctx context.Context, a *arena, n int) (*audience, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop := func() { cancel(); wg.Wait() }
	seen := &audience{}
	for range n {
		c, err := a.client("agent")
		if err != nil {
			stop()
			return nil, nil, err
		}
		w, err := c.Watch(client.WatchConfig{Keys: []string{"rot-sign"}})
		if err != nil {
			stop()
			return nil, nil, err
		}
		wg.Go(func() { _ = w.Run(ctx) })
		wg.Go(func() {
			defer c.Close()
			err := everyTick(ctx, 100*time.Millisecond, func() error {
				res, err := c.Sign(ctx, "rot-sign", api.SignRequest{Payload: []byte("who goes there?"), Format: api.FormatJWS})
				var judged api.VerifyResponse
				if err == nil {
					judged, err = w.Verify(ctx, "rot-sign", api.VerifyRequest{JWS: res.JWS})
				}
				if err == nil && !judged.Valid {
					err = fmt.Errorf("a signature by version %d does not hold: %s", judged.Version, judged.Reason)
				}
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					seen.failed.Add(1)
					fmt.Fprintln(os.Stderr, "  an agent failed:", err)
					return nil
				}
				seen.verified.Add(1)
				return nil
			})
			_ = err
		})
	}
	return seen, stop, nil
}

// dueAtOnce makes many keys due at one moment by their schedule and measures
// the data plane until all are rotated.
func dueAtOnce(ctx context.Context, a *arena, admin *client.Client, many int, quiet time.Duration) (rotationReport, error) {
	r := rotationReport{Name: fmt.Sprintf("%d-keys-due-at-once", many), Rotations: many}
	name := func(i int) string { return fmt.Sprintf("due-%04d", i) }
	fmt.Fprintf(os.Stderr, "  making %d keys\n", many)
	for i := range many {
		if _, err := admin.CreateKey(ctx, api.CreateKeyRequest{Name: name(i), Algorithm: "ES256"}); err != nil {
			return r, err
		}
	}
	before, _, err := a.mixed(ctx, quiet)
	if err != nil {
		return r, err
	}
	// A minute that leaves time to tell all keys of it.
	at := time.Now().UTC().Truncate(time.Minute).Add(3 * time.Minute)
	schedule := fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour())
	for i := range many {
		if _, err := admin.UpdateKey(ctx, name(i), api.UpdateKeyRequest{Policy: &api.Policy{Schedule: schedule}}); err != nil {
			return r, err
		}
	}
	if time.Now().After(at) {
		return r, errors.New("the machine is too slow: the moment came before every key knew of it")
	}
	fmt.Fprintf(os.Stderr, "  all are due at %s\n", at.Format("15:04:05"))
	select {
	case <-ctx.Done():
		return r, ctx.Err()
	case <-time.After(time.Until(at)):
	}
	var during result
	rounds := 0
	for {
		const slice = 5 * time.Second
		part, n, err := a.mixed(ctx, slice)
		if err != nil {
			return r, err
		}
		rounds++
		r.Requests += n
		during.perSecond += part.perSecond
		during.p99 = max(during.p99, part.p99) // the worst five seconds count
		done, err := rotated(ctx, admin, many)
		if err != nil {
			return r, err
		}
		fmt.Fprintf(os.Stderr, "  %d of %d rotated after %s\n", done, many, time.Since(at).Round(time.Second))
		if done == many {
			break
		}
	}
	r.Seconds = time.Since(at).Seconds()
	during.perSecond /= float64(rounds)
	after, _, err := a.mixed(ctx, quiet)
	if err != nil {
		return r, err
	}
	r.fill(before, after, during)
	return r, nil
}

// rotated counts the keys that have an active version 2.
func rotated(ctx context.Context, admin *client.Client, many int) (int, error) {
	n := 0
	for k, err := range admin.Keys(ctx) {
		if err != nil {
			return 0, err
		}
		if len(k.Name) == len("due-0000") && k.Name[:4] == "due-" && k.ActiveVersion == 2 && keys.State(k.Versions[0].State) == keys.Active {
			n++
		}
	}
	return min(n, many), nil
}

func (r *rotationReport) fill(before, after, during result) {
	ms := func(d time.Duration) float64 { return round(float64(d)/float64(time.Millisecond), 3) }
	quiet := max(before.p99, after.p99)
	r.QuietP99, r.BusyP99 = ms(quiet), ms(during.p99)
	r.Ratio = round(float64(during.p99)/float64(quiet), 2)
	r.Throughput = round(during.perSecond/((before.perSecond+after.perSecond)/2), 2)
	r.Seconds = round(r.Seconds, 1)
}

// printRotations prints the reports and, with a path, writes them as JSON.
func printRotations(w io.Writer, path string, rows []rotationReport) error {
	fmt.Fprintf(w, "%-24s %10s %10s %7s %12s %12s %7s %11s %8s\n", "", "rotations", "requests", "failed", "quiet p99", "busy p99", "ratio", "throughput", "seconds")
	for _, r := range rows {
		fmt.Fprintf(w, "%-24s %10d %10d %7d %9.2f ms %9.2f ms %6.2fx %10.2fx %8.1f\n",
			r.Name, r.Rotations, r.Requests, r.Failed, r.QuietP99, r.BusyP99, r.Ratio, r.Throughput, r.Seconds)
	}
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
