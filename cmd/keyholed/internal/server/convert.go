package server

import (
	"log/slog"

	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/hsm"
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

// accessLog returns where each request is logged, nil for nowhere.
func accessLog(c *config.Config, log *slog.Logger) *slog.Logger {
	if c.Log.Access {
		return log
	}
	return nil
}
