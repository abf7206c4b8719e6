package gateway

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
	"keyhole/store"
)

// maxPrincipal is the longest name of a caller that can be blocked, in bytes.
const maxPrincipal = 1024

// Agents describes the principals that were seen, subscribed or blocked, in
// order, from behind after. limit 0 means DefaultPage.
func (s *Service) Agents(ctx context.Context, req Request, after string, limit int) (api.AgentList, error) {
	return guarded(ctx, s.open(req, authz.ActionListAgents, "", 0), func(ctx context.Context, o *op) (api.AgentList, error) {
		list := api.AgentList{Agents: []api.Agent{}}
		if err := o.decide(gatewayResource, ""); err != nil {
			return list, err
		}
		limit, err := pageSize(limit)
		if err != nil {
			return list, err
		}
		agents, err := s.store.Agents(ctx, store.AgentFilter{After: after, Limit: limit + 1})
		if err != nil {
			return list, err
		}
		for i, a := range agents {
			if i == limit {
				list.Next = agents[i-1].Principal
				break
			}
			shown, err := o.agent(ctx, a)
			if err != nil {
				return list, err
			}
			list.Agents = append(list.Agents, shown)
		}
		return list, nil
	})
}

// Agent describes the principal with an id: see keys.AgentID.
func (s *Service) Agent(ctx context.Context, req Request, id string) (api.Agent, error) {
	return guarded(ctx, s.open(req, authz.ActionListAgents, "", 0), func(ctx context.Context, o *op) (api.Agent, error) {
		if err := o.decide(gatewayResource, ""); err != nil {
			return api.Agent{}, err
		}
		a, err := s.store.Agent(ctx, clip(id))
		if err != nil {
			return api.Agent{}, unknownAgent(id, err)
		}
		return o.agent(ctx, a)
	})
}

func unknownAgent(id string, err error) error {
	if errors.Is(err, keys.ErrNotFound) {
		return keys.Errorf(keys.ErrNotFound, "no principal with the id %q was seen, subscribed or blocked", clip(id))
	}
	return err
}

// agent describes a, as far as the caller may see the keys that it has to do
// with.
func (o *op) agent(ctx context.Context, a *keys.Agent) (api.Agent, error) {
	subs, err := o.s.store.Subscriptions(ctx, "", a.Principal)
	if err != nil {
		return api.Agent{}, err
	}
	acks, err := o.s.store.Acks(ctx, "", 0, a.Principal)
	if err != nil {
		return api.Agent{}, err
	}
	may := map[string]bool{}
	hidden := func(key string) bool {
		if _, asked := may[key]; !asked {
			may[key] = o.reads(key)
		}
		return !may[key]
	}
	shown := wire.Agent(a, without(subs, func(s keys.Subscription) bool { return hidden(s.Key) }),
		without(acks, func(k keys.Ack) bool { return hidden(k.Key) }))
	return shown, nil
}

func without[T any](all []T, hidden func(T) bool) []T {
	var rest []T
	for _, x := range all {
		if !hidden(x) {
			rest = append(rest, x)
		}
	}
	return rest
}

// BlockAgent has a principal refused from now on, whatever its credentials
// say, on this gateway when it returns. id is keys.AgentID of it.
func (s *Service) BlockAgent(ctx context.Context, req Request, id string, in api.BlockRequest) (api.Agent, error) {
	return s.blocking(ctx, req, id, in, true)
}

// UnblockAgent undoes BlockAgent.
func (s *Service) UnblockAgent(ctx context.Context, req Request, id string, in api.BlockRequest) (api.Agent, error) {
	return s.blocking(ctx, req, id, in, false)
}

func (s *Service) blocking(ctx context.Context, req Request, id string, in api.BlockRequest, block bool) (api.Agent, error) {
	return changes(ctx, s.open(req, authz.ActionBlockAgent, "", 0), onGateway, func(ctx context.Context, o *op) (api.Agent, error) {
		principal, err := s.principalOf(ctx, id, in.Principal)
		if err != nil {
			return api.Agent{}, err
		}
		o.detail("agent", principal)
		if err := checkNote(in.Reason); err != nil {
			return api.Agent{}, err
		}
		if block && (principal == req.Caller.ID || principal == req.Caller.Also) {
			return api.Agent{}, keys.Errorf(keys.ErrInvalid, "you would block yourself; let another administrator do it")
		}
		var order *keys.Block
		if o.detail("act", "unblock"); block {
			o.detail("act", "block")
			order = &keys.Block{At: s.now(), By: req.Caller.ID, Reason: in.Reason}
		}
		o.detail("note", in.Reason)
		a, err := own(ctx, o, func(ctx context.Context) (*keys.Agent, error) {
			if err := s.store.BlockAgent(ctx, principal, order); err != nil {
				return nil, unknownAgent(id, err)
			}
			if err := s.snapshots.Refresh(ctx); err != nil {
				return nil, errors.Join(keys.Errorf(keys.ErrStore, "this is stored and not in force here yet: the store cannot be read; see what stands before trying again"), err)
			}
			a, err := s.store.Agent(ctx, keys.AgentID(principal))
			if errors.Is(err, keys.ErrNotFound) { // never seen, and blocked no longer
				return &keys.Agent{Principal: principal}, nil
			}
			return a, err
		})
		if err != nil {
			return api.Agent{}, err
		}
		return o.agent(ctx, a)
	})
}

// principalOf returns the principal with an id, which is told, or known from
// before.
func (s *Service) principalOf(ctx context.Context, id, told string) (string, error) {
	if told == "" {
		a, err := s.store.Agent(ctx, clip(id))
		if err != nil {
			return "", unknownAgent(id, err)
		}
		return a.Principal, nil
	}
	named := strings.HasPrefix(told, "jwt:") || strings.HasPrefix(told, "mtls:")
	if !named || len(told) > maxPrincipal || !utf8.ValidString(told) || strings.ContainsFunc(told, unicode.IsControl) {
		return "", keys.Errorf(keys.ErrInvalid, "\"principal\" must be as the audit log and whoami show it: \"jwt:<issuer>:<sub>\" or \"mtls:<name>\"")
	}
	if keys.AgentID(told) != id {
		return "", keys.Errorf(keys.ErrInvalid, "\"principal\" has another id than the one in the path: %s", keys.AgentID(told))
	}
	return told, nil
}
