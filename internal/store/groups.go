package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Group reads a group with its subscriptions.
func (t *Tx) Group(ctx context.Context, name string) (*snapshot.Group, error) {
	var r groupRow
	err := t.tx.NewSelect().Model(&r).Where("name = ?", name).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read group %q: %w", name, err)
	}
	var subs []subscriptionRow
	if err := t.tx.NewSelect().Model(&subs).Where("consumer_group = ?", name).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read group %q: %w", name, err)
	}
	g := r.group()
	for i := range subs {
		g.Subscriptions[subs[i].Topic] = subs[i].settings()
	}
	return g, nil
}

// InsertGroup adds a group; ErrExists where the name is taken.
func (t *Tx) InsertGroup(ctx context.Context, g *snapshot.Group) error {
	row, subs := groupRowsOf(g, t.version)
	res, err := t.tx.NewInsert().Model(row).On("CONFLICT DO NOTHING").Exec(ctx)
	if err := affected(res, err, ErrExists); err != nil {
		return wrap(err, "insert group", g.Name)
	}
	return wrap(t.insertSubscriptions(ctx, subs), "insert group", g.Name)
}

func (t *Tx) insertSubscriptions(ctx context.Context, subs []subscriptionRow) error {
	if len(subs) == 0 {
		return nil
	}
	_, err := t.tx.NewInsert().Model(&subs).Exec(ctx)
	return err
}

// UpdateGroup replaces a group that has version base (0: any), subscriptions included.
func (t *Tx) UpdateGroup(ctx context.Context, g *snapshot.Group, base uint64) error {
	old, err := t.Group(ctx, g.Name)
	if err != nil {
		return err
	}
	if base != 0 && old.Version != base {
		return ErrConflict
	}
	row, subs := groupRowsOf(g, t.version)
	if _, err := t.tx.NewUpdate().Model(row).WherePK().Exec(ctx); err != nil {
		return wrap(err, "update group", g.Name)
	}
	if _, err := t.tx.NewDelete().Model((*subscriptionRow)(nil)).Where("consumer_group = ?", g.Name).Exec(ctx); err != nil {
		return wrap(err, "update group", g.Name)
	}
	return wrap(t.insertSubscriptions(ctx, subs), "update group", g.Name)
}

// DeleteGroup removes a group with its subscriptions.
func (t *Tx) DeleteGroup(ctx context.Context, name string) error {
	res, err := t.tx.NewDelete().Model((*groupRow)(nil)).Where("name = ?", name).Exec(ctx)
	return wrap(affected(res, err, ErrNotFound), "delete group", name)
}
