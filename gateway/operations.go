package gateway

import (
	"context"
	"errors"
	"strconv"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// Reconcile compares the tokens with the store and repairs what is safe to
// repair, or with a dry run nothing.
func (s *Service) Reconcile(ctx context.Context, req Request, in api.ReconcileRequest) (api.ReconcileReport, error) {
	return changes(ctx, s.open(req, authz.ActionReconcile, "", 0), onGateway, func(ctx context.Context, o *op) (api.ReconcileReport, error) {
		o.detail("dry_run", strconv.FormatBool(in.DryRun))
		return own(ctx, o, func(context.Context) (api.ReconcileReport, error) {
			// Listing a full token takes longer than an act of the gateway's own.
			report, err := s.lifecycle.Reconcile(context.WithoutCancel(ctx), o.actor(), in.DryRun)
			if err != nil {
				return api.ReconcileReport{}, err
			}
			o.detail("findings", strconv.Itoa(len(report.Findings)))
			return wire.Report(report), nil
		})
	})
}

// Webhooks lists the configured webhooks, with the events that they did not
// take, as far as the caller may see their keys.
func (s *Service) Webhooks(ctx context.Context, req Request) (api.WebhookList, error) {
	return guarded(ctx, s.open(req, authz.ActionListWebhooks, "", 0), func(ctx context.Context, o *op) (api.WebhookList, error) {
		list := api.WebhookList{Webhooks: []api.Webhook{}}
		if err := o.decide(gatewayResource, ""); err != nil || s.webhooks == nil {
			return list, err
		}
		all, err := s.webhooks.List(ctx)
		if err != nil {
			return list, err
		}
		for _, w := range all {
			list.Webhooks = append(list.Webhooks, o.webhook(w))
		}
		return list, nil
	})
}

// webhook leaves out the events of keys that the caller may not see.
func (o *op) webhook(w api.Webhook) api.Webhook {
	dead := []api.DeadEvent{}
	for _, d := range w.Dead {
		if o.reads(d.Event.Key) {
			dead = append(dead, d)
		}
	}
	w.Dead = dead
	return w
}

// RetryWebhook sends again what a webhook did not take.
func (s *Service) RetryWebhook(ctx context.Context, req Request, name string) (api.Webhook, error) {
	return changes(ctx, s.open(req, authz.ActionRetryWebhook, "", 0), onGateway, func(ctx context.Context, o *op) (api.Webhook, error) {
		o.detail("webhook", clip(name))
		unknown := keys.Errorf(keys.ErrNotFound, "no webhook is configured under the name %q", clip(name))
		if s.webhooks == nil {
			return api.Webhook{}, unknown
		}
		w, err := own(ctx, o, func(ctx context.Context) (api.Webhook, error) { return s.webhooks.Retry(ctx, name) })
		if errors.Is(err, keys.ErrNotFound) {
			return api.Webhook{}, unknown
		}
		if err != nil {
			return api.Webhook{}, err
		}
		return o.webhook(w), nil
	})
}
