package server

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/hsm"
	"keyhole/keys"
)

func hsmConfig(c *config.Config, log *slog.Logger, m *metrics.Set) hsm.Config {
	h := hsm.Config{Log: log, Observe: m.HSMCall}
	for i := range c.Tokens {
		t := &c.Tokens[i]
		h.Tokens = append(h.Tokens, hsm.TokenConfig{
			Name: t.Name, Module: t.Module, Label: t.Label, Serial: t.Serial, PIN: t.PIN, Sessions: t.Sessions,
			SessionWait: t.SessionWait, StuckAfter: t.StuckAfter, MaxStuck: t.MaxStuck, CanaryInterval: t.CanaryInterval, GCMIV: t.GCMIV,
		})
	}
	return h
}

func limits(c *config.Config) authz.LimiterConfig {
	l := c.Limits
	return authz.LimiterConfig{
		Rate: float64(l.RequestsPerSecond), Burst: l.Burst, InFlight: l.InFlight,
		FailedLogins: float64(l.FailedLoginsPerMinute) / 60, FailedLoginBurst: l.FailedLoginBurst,
		FailedOperations: float64(l.FailedDecryptsPerMinute) / 60, FailedOperationBurst: l.FailedDecryptBurst,
	}
}

// tell logs which tokens were found and what they can do.
func tell(ctx context.Context, log *slog.Logger, token *hsm.HSM) {
	for _, t := range token.Describe() {
		var can, cannot []keys.Algorithm
		for _, alg := range slices.Sorted(maps.Keys(t.Capabilities)) {
			if t.Capabilities[alg] {
				can = append(can, alg)
			} else {
				cannot = append(cannot, alg)
			}
		}
		log.InfoContext(ctx, "token open", "token", t.Name, "label", t.Label, "serial", t.Serial,
			"manufacturer", t.Manufacturer, "model", t.Model, "module", t.Module, "algorithms", can, "not_supported", cannot)
	}
}

// accessLog returns where each request is logged, nil for nowhere.
func accessLog(c *config.Config, log *slog.Logger) *slog.Logger {
	if c.Log.Access {
		return log
	}
	return nil
}
