package server

import (
	"log/slog"

	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/gateway"
	"keyhole/keys"
)

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

func triggers(c *config.Config) map[string]gateway.Trigger {
	all := make(map[string]gateway.Trigger, len(c.Triggers))
	for _, t := range c.Triggers {
		all[t.Name] = gateway.Trigger{Keys: t.Keys, Reason: keys.Reason(t.Reason)}
	}
	return all
}

// warn says at each start which safeguards the configuration takes away.
func warn(c *config.Config, log *slog.Logger) {
	def := keys.DefaultLimits()
	if c.Development {
		log.Warn("this is a DEVELOPMENT gateway (development: true): do not use its keys for anything that matters")
	}
	if d := c.Rotation.MinDestroyDelay; d < def.MinDestroyDelay {
		log.Warn("versions may be destroyed so soon that a mistake cannot be undone (rotation.min_destroy_delay)", "min_destroy_delay", d)
	}
	if len(c.Rotation.TwoPeople) == 0 && !c.Development {
		log.Warn("one person alone may have keys destroyed (rotation.two_people is empty)")
	}
}
