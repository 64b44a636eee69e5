package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Cluster reads a cluster.
func (t *Tx) Cluster(ctx context.Context, name string) (*snapshot.Cluster, error) {
	var r clusterRow
	err := t.tx.NewSelect().Model(&r).Where("name = ?", name).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster %q: %w", name, err)
	}
	return r.cluster(), nil
}

// InsertCluster adds a cluster; ErrExists where the name is taken.
func (t *Tx) InsertCluster(ctx context.Context, c *snapshot.Cluster) error {
	res, err := t.tx.NewInsert().Model(clusterRowOf(c, t.version)).On("CONFLICT DO NOTHING").Exec(ctx)
	return wrap(affected(res, err, ErrExists), "insert cluster", c.Name)
}

// UpdateCluster replaces a cluster that has version base (0: any).
func (t *Tx) UpdateCluster(ctx context.Context, c *snapshot.Cluster, base uint64) error {
	old, err := t.Cluster(ctx, c.Name)
	if err != nil {
		return err
	}
	if base != 0 && old.Version != base {
		return ErrConflict
	}
	_, err = t.tx.NewUpdate().Model(clusterRowOf(c, t.version)).WherePK().Exec(ctx)
	return wrap(err, "update cluster", c.Name)
}

// DeleteCluster removes a cluster; ErrInUse while topics live on it.
func (t *Tx) DeleteCluster(ctx context.Context, name string) error {
	used, err := t.tx.NewSelect().Model((*homeRow)(nil)).Where("cluster = ?", name).Exists(ctx)
	if err != nil {
		return fmt.Errorf("delete cluster %q: %w", name, err)
	}
	if used {
		return ErrInUse
	}
	res, err := t.tx.NewDelete().Model((*clusterRow)(nil)).Where("name = ?", name).Exec(ctx)
	return wrap(affected(res, err, ErrNotFound), "delete cluster", name)
}

// wrap says what failed; the package's own errors pass as they are.
func wrap(err error, what, name string) error {
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrExists), errors.Is(err, ErrConflict), errors.Is(err, ErrInUse):
		return err
	default:
		return fmt.Errorf("%s %q: %w", what, name, err)
	}
}
