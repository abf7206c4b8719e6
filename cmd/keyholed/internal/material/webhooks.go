package material

import (
	"fmt"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/keys"
	"keyhole/webhook"
)

// Webhooks returns the endpoints that c names.
func Webhooks(c *config.Config) []webhook.Hook {
	var all []webhook.Hook
	for _, w := range c.Webhooks {
		h := webhook.Hook{
			Name: w.Name, URL: w.URL, Keys: w.Keys, SigningKey: w.SigningKey, CAFile: w.CAFile, Timeout: w.Timeout, GiveUpAfter: w.GiveUpAfter,
		}
		for _, t := range w.Events {
			h.Events = append(h.Events, keys.NoticeType(t))
		}
		all = append(all, h)
	}
	return all
}

// checkWebhooks notes what no webhook can be made of, such as a file of CAs
// that holds none.
func checkWebhooks(c *config.Config, note func(path string, err error)) {
	for i, h := range Webhooks(c) {
		_, err := webhook.New(webhook.Config{Hooks: []webhook.Hook{h}})
		note(fmt.Sprintf("webhooks[%d]", i), err)
	}
}
