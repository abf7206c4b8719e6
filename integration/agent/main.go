// Command agent is a small agent: it signs without pause with the keys named
// on its command line and checks each signature by itself, across rotations.
// It tells each new version that it meets, and at its end how many signatures
// it made; the exit status is 1 if one failed. It is configured as the command
// keyhole is, by KEYHOLE_ADDR and so on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keys []string, out io.Writer) error {
	cfg := client.Config{
		Address: os.Getenv("KEYHOLE_ADDR"), CACertFile: os.Getenv("KEYHOLE_CACERT"),
		CertFile: os.Getenv("KEYHOLE_CERT"), KeyFile: os.Getenv("KEYHOLE_KEY"),
	}
	if path := os.Getenv("KEYHOLE_TOKEN_FILE"); path != "" {
		cfg.Token = client.TokenFile(path)
	}
	c, err := client.New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := c.Watch(client.WatchConfig{Keys: keys})
	if err != nil {
		return err
	}
	watched := make(chan error, 1)
	go func() { watched <- w.Run(ctx) }()
	select {
	case <-w.Ready():
	case err := <-watched:
		return err
	}
	var wg sync.WaitGroup
	results := make([]result, len(keys))
	for i, key := range keys {
		wg.Go(func() { results[i] = work(ctx, c, w, key, out) })
	}
	fmt.Fprintln(out, "ready")
	wg.Wait()
	var errs []error
	for i, r := range results {
		fmt.Fprintf(out, "%s: %d signed and verified\n", keys[i], r.good)
		errs = append(errs, r.err)
	}
	return errors.Join(append(errs, <-watched)...)
}

type result struct {
	good int
	err  error
}

// work signs and verifies until ctx ends or something fails.
func work(ctx context.Context, c *client.Client, w *client.Watch, key string, out io.Writer) (r result) {
	last := uint32(0)
	for ctx.Err() == nil {
		s, err := c.Sign(ctx, key, api.SignRequest{Payload: []byte("a payload"), Format: api.FormatJWS})
		var v api.VerifyResponse
		if err == nil {
			v, err = w.Verify(ctx, key, api.VerifyRequest{JWS: s.JWS}) // asks nobody
		}
		switch {
		case ctx.Err() != nil:
			return r
		case err != nil:
			r.err = err
			return r
		case !v.Valid:
			r.err = fmt.Errorf("a signature by %s does not hold: %s", s.KeyID, v.Reason)
			return r
		case s.Version < last:
			r.err = fmt.Errorf("%s signed behind version %d", s.KeyID, last)
			return r
		case s.Version > last:
			fmt.Fprintln(out, "signed by", s.KeyID)
			last = s.Version
		}
		r.good++
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return r
}
