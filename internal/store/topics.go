package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Topic reads a topic with its homes.
func (t *Tx) Topic(ctx context.Context, name string) (*snapshot.Topic, error) {
	var r topicRow
	err := t.tx.NewSelect().Model(&r).Where("name = ?", name).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read topic %q: %w", name, err)
	}
	var homes []homeRow
	if err := t.tx.NewSelect().Model(&homes).Where("topic = ?", name).Order("place").Scan(ctx); err != nil {
		return nil, fmt.Errorf("read topic %q: %w", name, err)
	}
	topic := r.topic()
	for i := range homes {
		topic.Homes = append(topic.Homes, homes[i].home())
	}
	return topic, nil
}

// TopicAt gives the logical name of a physical topic; "" where there is none.
func (t *Tx) TopicAt(ctx context.Context, cluster string, physical mq.Topic) (string, error) {
	var name string
	err := t.tx.NewSelect().Model((*homeRow)(nil)).Column("topic").
		Where("cluster = ?", cluster).Where("physical = ?", string(physical)).Limit(1).Scan(ctx, &name)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("read topics of cluster %q: %w", cluster, err)
	}
	return name, nil
}

// InsertTopic adds a topic; ErrExists where the name is taken.
func (t *Tx) InsertTopic(ctx context.Context, topic *snapshot.Topic) error {
	row, homes := topicRowsOf(topic, t.version)
	res, err := t.tx.NewInsert().Model(row).On("CONFLICT DO NOTHING").Exec(ctx)
	if err := affected(res, err, ErrExists); err != nil {
		return wrap(err, "insert topic", topic.Name)
	}
	return wrap(t.insertHomes(ctx, homes), "insert topic", topic.Name)
}

func (t *Tx) insertHomes(ctx context.Context, homes []homeRow) error {
	if len(homes) == 0 {
		return nil
	}
	_, err := t.tx.NewInsert().Model(&homes).Exec(ctx)
	return err
}

// UpdateTopic replaces a topic that has version base (0: any), homes included.
func (t *Tx) UpdateTopic(ctx context.Context, topic *snapshot.Topic, base uint64) error {
	old, err := t.Topic(ctx, topic.Name)
	if err != nil {
		return err
	}
	if base != 0 && old.Version != base {
		return ErrConflict
	}
	row, homes := topicRowsOf(topic, t.version)
	if _, err := t.tx.NewUpdate().Model(row).WherePK().Exec(ctx); err != nil {
		return wrap(err, "update topic", topic.Name)
	}
	if _, err := t.tx.NewDelete().Model((*homeRow)(nil)).Where("topic = ?", topic.Name).Exec(ctx); err != nil {
		return wrap(err, "update topic", topic.Name)
	}
	return wrap(t.insertHomes(ctx, homes), "update topic", topic.Name)
}

// DeleteTopic removes a topic; ErrInUse while a group subscribes to it.
func (t *Tx) DeleteTopic(ctx context.Context, name string) error {
	used, err := t.tx.NewSelect().Model((*subscriptionRow)(nil)).Where("topic = ?", name).Exists(ctx)
	if err != nil {
		return fmt.Errorf("delete topic %q: %w", name, err)
	}
	if used {
		return ErrInUse
	}
	res, err := t.tx.NewDelete().Model((*topicRow)(nil)).Where("name = ?", name).Exec(ctx)
	return wrap(affected(res, err, ErrNotFound), "delete topic", name)
}
