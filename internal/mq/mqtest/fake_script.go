package mqtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Attempt is one call of Produce, as it reached the broker.
type Attempt struct {
	Partition mq.PartitionID
	Records   []mq.Record // copies; do not change
	Number    int         // counts the attempts of this Fake, from 1
}

// Outcome says what becomes of an attempt. The zero value is: stored and answered at once.
// A later attempt on the same partition waits behind an earlier one, as with one request in flight.
type Outcome struct {
	// Hold, if not nil, keeps the attempt in flight, not yet stored, until it is closed. Delay waits after that.
	Hold  <-chan struct{}
	Delay time.Duration
	// Err answers every record; with Stored the records are in the log all the same (a lost reply).
	Err    error
	Stored bool
	// Each, without Err, answers single records; those with an error are not stored (unless it is of class NotDurable).
	Each func(i int, r mq.Record) error
	// AnswerHold and AnswerDelay come between the append and the answer.
	AnswerHold  <-chan struct{}
	AnswerDelay time.Duration
}

// LoseReply stores the records and answers that nobody knows.
func LoseReply() Outcome {
	return Outcome{Stored: true, Err: &mq.Error{Class: mq.Timeout, Msg: "the reply was lost", MaybeSent: true}}
}

// Refuse stores nothing and answers with a class, certainly not sent.
func Refuse(c mq.Class) Outcome {
	return Outcome{Err: mq.Errorf(c, "scripted")}
}

type hooks struct {
	produce func(Attempt) Outcome
	fetch   func(group string, p mq.PartitionID, offset int64) error
	commit  func(group string, epoch int64, p mq.PartitionID, c mq.Commit) error
	join    func(mq.GroupConfig) error
	admin   func(call string) error
}

// OnProduce scripts attempts; nil ends the script. fn runs outside of the Fake's lock, in a goroutine of the partition.
func (f *Fake) OnProduce(fn func(Attempt) Outcome) { f.hook(func(h *hooks) { h.produce = fn }) }

// OnFetch scripts errors of fetches; nil from fn lets the fetch go on. group is empty for a Reader.
func (f *Fake) OnFetch(fn func(group string, p mq.PartitionID, offset int64) error) {
	f.hook(func(h *hooks) { h.fetch = fn })
}

// OnCommit scripts the answer for one partition of a commit; nil from fn lets the commit go on. It may wait.
func (f *Fake) OnCommit(fn func(group string, epoch int64, p mq.PartitionID, c mq.Commit) error) {
	f.hook(func(h *hooks) { h.commit = fn })
}

// OnJoin scripts errors of Driver.Group.
func (f *Fake) OnJoin(fn func(mq.GroupConfig) error) { f.hook(func(h *hooks) { h.join = fn }) }

// OnAdmin scripts errors of Admin's calls and Producer.Partitions by method name.
func (f *Fake) OnAdmin(fn func(call string) error) { f.hook(func(h *hooks) { h.admin = fn }) }

func (f *Fake) hook(set func(*hooks)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set(&f.hooks)
}

func (f *Fake) script() hooks {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hooks
}

// AddTopic makes a topic whose partitions have their leaders spread over the brokers. It panics if the topic exists.
func (f *Fake) AddTopic(topic mq.Topic, partitions int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topics[topic] != nil {
		panic(fmt.Sprintf("mqtest: topic %q exists", topic))
	}
	f.addTopic(topic, partitions, map[string]string{})
}

// SetPartition changes what is known of a partition: replicas, leader (empty: produce and fetch fail with NotLeader),
// writable. It panics if there is no such partition.
func (f *Fake) SetPartition(id mq.PartitionID, change func(*mq.Partition)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.must(id)
	info := clonePartition(p.info)
	change(&info)
	info.ID = id
	p.info = info
	f.notify()
}

// SetLeader moves a partition to a broker; the empty name leaves it without a leader.
func (f *Fake) SetLeader(id mq.PartitionID, broker string) {
	f.SetPartition(id, func(p *mq.Partition) { p.Leader, p.Writable = broker, broker != "" })
}

// SetBroker scripts a broker's answer to Probe; nil is healthy.
func (f *Fake) SetBroker(broker string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probe[broker] = err
}

// Append stores records as a native producer would, without hooks, and returns the first offset.
func (f *Fake) Append(id mq.PartitionID, records ...mq.Record) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.must(id)
	base := p.end()
	f.store(p, records)
	return base
}

// Trim deletes everything below an offset, as retention does.
func (f *Fake) Trim(id mq.PartitionID, below int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.must(id).trim(below)
}

// Records are copies of what a partition holds now.
func (f *Fake) Records(id mq.PartitionID) []mq.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cloneRecords(f.must(id).records)
}

// Attempts are the calls of Produce that reached the broker so far, in order.
func (f *Fake) Attempts() []Attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.attempts)
}

// Commits are a group's positions now.
func (f *Fake) Commits(group string) map[mq.PartitionID]mq.Commit {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[mq.PartitionID]mq.Commit)
	if g := f.groups[group]; g != nil {
		maps.Copy(out, g.commits)
	}
	return out
}

// Await waits until cond holds; it is asked again after each change of the Fake, outside of the lock.
func (f *Fake) Await(ctx context.Context, cond func() bool) error {
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ended(ctx)
		case <-f.closing:
			return errClosed()
		}
	}
}

// must finds a partition or panics: a mistake of the test. The caller holds mu.
func (f *Fake) must(id mq.PartitionID) *fakePartition {
	p, err := f.partition(id)
	if err != nil {
		panic("mqtest: " + err.Error())
	}
	return p
}

func clonePartition(p mq.Partition) mq.Partition {
	p.Replicas, p.InSync = slices.Clone(p.Replicas), slices.Clone(p.InSync)
	return p
}

// cloneRecords copies records with their bytes; nil stays nil and empty stays empty.
func cloneRecords(rs []mq.Record) []mq.Record {
	out := make([]mq.Record, len(rs))
	for i, r := range rs {
		r.Key, r.Body, r.Headers = bytes.Clone(r.Key), bytes.Clone(r.Body), slices.Clone(r.Headers)
		for j := range r.Headers {
			r.Headers[j].Value = bytes.Clone(r.Headers[j].Value)
		}
		out[i] = r
	}
	return out
}
