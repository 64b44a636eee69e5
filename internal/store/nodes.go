package store

import (
	"context"

	"github.com/sluice-mq/sluice/internal/snapshot"
)

// PutNode stores a node as it is seen now. Whether an operator drains it stays as stored.
func (t *Tx) PutNode(ctx context.Context, n *snapshot.Node) error {
	row := &nodeRow{
		Name: n.Name, GRPC: n.GRPC, HTTP: n.HTTP, Datacenter: n.Datacenter, Build: n.Build, Roles: toJSON(n.Roles),
		Alive: n.Alive, LastSeenMS: msOf(t.now),
	}
	_, err := t.tx.NewInsert().Model(row).On("CONFLICT (name) DO UPDATE").
		Set("grpc = EXCLUDED.grpc").Set("http = EXCLUDED.http").Set("datacenter = EXCLUDED.datacenter").Set("build = EXCLUDED.build").
		Set("roles = EXCLUDED.roles").Set("alive = EXCLUDED.alive").Set("last_seen_ms = EXCLUDED.last_seen_ms").Exec(ctx)
	return wrap(err, "store node", n.Name)
}

// DrainNode stores whether an operator drains a node.
func (t *Tx) DrainNode(ctx context.Context, name string, drain bool) error {
	res, err := t.tx.NewUpdate().Model((*nodeRow)(nil)).Set("draining = ?", drain).Where("name = ?", name).Exec(ctx)
	return wrap(affected(res, err, ErrNotFound), "drain node", name)
}

// DeleteNodesUnseen removes nodes that are dead and were last seen before a time in milliseconds.
func (t *Tx) DeleteNodesUnseen(ctx context.Context, beforeMS int64) error {
	_, err := t.tx.NewDelete().Model((*nodeRow)(nil)).Where("alive = ?", false).Where("last_seen_ms < ?", beforeMS).Exec(ctx)
	return wrap(err, "delete nodes", "unseen")
}
