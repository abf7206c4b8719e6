package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/hsm"
	"keyhole/keys"
)

func setModuleEnv(c *config.Config) error {
	for name, value := range c.ModuleEnv {
		if err := os.Setenv(name, value); err != nil { // reaches the module: the C library's environment is set too
			return exit.With(exit.Config, "", fmt.Errorf("setting %s for the PKCS#11 modules: %w", name, err))
		}
	}
	return nil
}

func hsmConfig(c *config.Config, log *slog.Logger, observe func(function, token, result string, d time.Duration)) hsm.Config {
	h := hsm.Config{Log: log, Observe: observe}
	for i := range c.Tokens {
		t := &c.Tokens[i]
		h.Tokens = append(h.Tokens, hsm.TokenConfig{
			Name: t.Name, Module: t.Module, Label: t.Label, Serial: t.Serial, PIN: t.PIN, Sessions: t.Sessions,
			SessionWait: t.SessionWait, StuckAfter: t.StuckAfter, MaxStuck: t.MaxStuck, CanaryInterval: t.CanaryInterval, GCMIV: t.GCMIV,
		})
	}
	return h
}

// How often, and with what pauses, a token is looked for that gateways share.
const (
	looks     = 5
	lookAgain = 200 * time.Millisecond
)

// openTokens opens the tokens. SoftHSM writes a token's file anew at each
// login, and whoever begins just then does not see the token: where there are
// other gateways, one that is not found is looked for again.
func openTokens(ctx context.Context, c *config.Config, o Options) (*hsm.HSM, error) {
	for look := 1; ; look++ {
		h, err := hsm.Open(ctx, hsmConfig(c, o.Log, o.Observe))
		if !c.Store.Shared() || !errors.Is(err, hsm.ErrNoToken) || look == looks {
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lookAgain):
		}
	}
}

// unmarked names the tokens that keep no marks of revocations.
func unmarked(all []hsm.TokenInfo) (names []string) {
	for _, t := range all {
		if !t.KeepsMarks {
			names = append(names, t.Name)
		}
	}
	return names
}

// witness returns what asks all tokens at once for their marks. It knows
// nothing unless every one of them answers.
func witness(token *hsm.HSM) func(ctx context.Context) ([]keys.RevocationMark, error) {
	return func(ctx context.Context) ([]keys.RevocationMark, error) {
		names := token.Tokens()
		marks := make([][]keys.RevocationMark, len(names))
		g, ctx := errgroup.WithContext(ctx)
		for i, name := range names {
			g.Go(func() (err error) {
				if marks[i], err = token.Revoked(ctx, name); err != nil {
					err = fmt.Errorf("reading the marks on the token %q: %w", name, err)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		var all []keys.RevocationMark
		for _, m := range marks {
			all = append(all, m...)
		}
		return all, nil
	}
}
