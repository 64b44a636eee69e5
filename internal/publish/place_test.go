package publish

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/mq"
)

var update = flag.Bool("update", false, "write sdk/testdata/placement.json anew")

const vectorFile = "../../sdk/testdata/placement.json"

// vectors is the form of placement.json, which every client checks itself against.
type vectors struct {
	Comment string         `json:"comment"`
	Murmur2 []murmurVector `json:"murmur2"`
	Spread  []spreadVector `json:"spread_order"`
	Blocks  []blockVector  `json:"blocks"`
	Cuts    []cutVector    `json:"cuts"`
}

type murmurVector struct {
	KeyBase64  string `json:"key_base64"`
	Hash       int32  `json:"hash"` // as Java's int
	Partitions int    `json:"partitions"`
	Partition  int    `json:"partition"`
}

type spreadVector struct {
	FirstReplicas []string `json:"first_replicas"` // of partition 0, 1, ...
	Order         []int32  `json:"order"`
}

type blockVector struct {
	Producer      string   `json:"producer"`
	XXH64         string   `json:"xxh64"`
	FirstReplicas []string `json:"first_replicas"`
	Block         int      `json:"block"`
	Sequences     []uint64 `json:"sequences"`
	Partitions    []int32  `json:"partitions"`
}

type cutVector struct {
	FirstID       string   `json:"first_id"`
	FirstReplicas []string `json:"first_replicas"`
	Messages      int      `json:"messages"`
	Partitions    []int32  `json:"partitions"`
}

// parts makes partitions whose first replicas are these; all of them are up.
func parts(first ...string) []mq.Partition {
	ps := make([]mq.Partition, len(first))
	for i, b := range first {
		ps[i] = mq.Partition{ID: mq.PartitionID{Topic: "t", Index: int32(i)}, Replicas: []string{b}, Leader: b, Writable: true}
	}
	return ps
}

// onBrokers deals n partitions over brokers 1 to b, as a broker does.
func onBrokers(n, b int) []mq.Partition {
	first := make([]string, n)
	for i := range first {
		first[i] = fmt.Sprint(i%b + 1)
	}
	return parts(first...)
}

// placed is where messages go; their ids are their own.
func placed(l *layout, producer string, block int, msgs []Message) ([]int32, int) {
	out, rs := make([]int32, len(msgs)), make([]Result, len(msgs))
	for i := range msgs {
		rs[i].ID = msgs[i].ID
	}
	moved := l.place(producer, block, msgs, rs, out)
	return out, moved
}

func sequenced(from, n int) []Message {
	msgs := make([]Message, n)
	for i := range msgs {
		msgs[i] = Message{ID: fmt.Sprint("id-", from+i), Sequence: uint64(from + i)}
	}
	return msgs
}

func unsequenced(n int) []Message {
	msgs := sequenced(1, n)
	for i := range msgs {
		msgs[i].Sequence = 0
	}
	return msgs
}

func TestMurmur2IsKafkas(t *testing.T) {
	t.Parallel()
	// From org.apache.kafka.common.utils.UtilsTest.
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestVectorsAreCurrent(t *testing.T) {
	t.Parallel()
	got, err := json.MarshalIndent(makeVectors(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(vectorFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("placement changed, which sends keys to other partitions; if that is meant, run with -update (-file +code):\n%s", d)
	}
}

func makeVectors() vectors {
	v := vectors{Comment: "Where messages go; made by internal/publish. murmur2: Kafka's hash of a key, partition = (hash & 0x7fffffff) mod partitions. " +
		"spread_order: partitions dealt out broker by broker, by first replica (ids as numbers where they are). " +
		"blocks: un-keyed message with sequence s goes to order[(xxh64(producer) + (s-1)/block) mod P], in unsigned 64 bit arithmetic. " +
		"cuts: n un-keyed messages without sequences become min(brokers, n) contiguous slices, slice i beginning at floor(i*n/slices), at order[(xxh64(first id) + i) mod P]."}
	for _, key := range []string{"", "a", "ab", "abc", "21", "foobar", "a-little-bit-long-string", "a-little-bit-longer-string", "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", "\x00\xff\xfe\x80", "ключ", "user-42"} {
		for _, n := range []int{1, 3, 12} {
			v.Murmur2 = append(v.Murmur2, murmurVector{base64.StdEncoding.EncodeToString([]byte(key)), int32(murmur2([]byte(key))), n, keyIndex([]byte(key), n)})
		}
	}
	layouts := [][]string{{"1"}, {"1", "2", "3"}, {"1", "1", "2", "2", "3", "3"}, {"10", "9", "10", "9", "2"}, {"broker-b", "broker-b", "broker-a", "broker-a"}, {"1", "1", "1", "2"}}
	for _, first := range layouts {
		l := newLayout(parts(first...), 0)
		v.Spread = append(v.Spread, spreadVector{first, l.spread})
		for _, producer := range []string{"", "p-1", "01890a5d-ac96-774b-bcce-b302099a8057"} {
			seqs := []uint64{1, 7, 8, 9, 16, 17, 24, 25, 1000, 1 << 40}
			msgs := make([]Message, len(seqs))
			for i, s := range seqs {
				msgs[i].Sequence = s
			}
			at, _ := placed(l, producer, 8, msgs)
			v.Blocks = append(v.Blocks, blockVector{producer, fmt.Sprintf("%016x", xxhash.Sum64String(producer)), first, 8, seqs, at})
		}
		for _, n := range []int{1, 2, 10} {
			msgs := unsequenced(n)
			at, _ := placed(l, "p-1", 8, msgs)
			v.Cuts = append(v.Cuts, cutVector{msgs[0].ID, first, n, at})
		}
	}
	return v
}

func TestUnkeyedBatchesReachAllBrokers(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{3, 6, 12} {
		l := newLayout(onBrokers(partitions, 3), 0)
		for _, n := range []int{30, 90, 900} {
			for name, msgs := range map[string][]Message{"sequenced": sequenced(1, n), "unsequenced": unsequenced(n)} {
				shares := map[string]int{}
				at, _ := placed(l, "producer-7", defaultBlock, msgs)
				for _, p := range at {
					shares[l.parts[p].Leader]++
				}
				t.Logf("%3d %-11s messages over %2d partitions on 3 brokers: %d / %d / %d", n, name, partitions, shares["1"], shares["2"], shares["3"])
				if len(shares) != 3 {
					t.Errorf("%d %s messages reached brokers %v, want all three", n, name, shares)
				}
				for b, got := range shares {
					// Whole blocks: no broker may be off by more than one block.
					if got < n/3-defaultBlock || got > n/3+defaultBlock {
						t.Errorf("%d %s messages: broker %s got %d", n, name, b, got)
					}
				}
			}
		}
	}
}

// layouts draws partitions on brokers; some of them may be down.
func layouts(rt *rapid.T, healthy bool) []mq.Partition {
	first := rapid.SliceOfN(rapid.SampledFrom([]string{"1", "2", "3", "10"}), 1, 24).Draw(rt, "first")
	ps := parts(first...)
	for i := range ps {
		if !healthy && rapid.Bool().Draw(rt, "down") {
			ps[i].Leader, ps[i].Writable = "", false
		}
	}
	return ps
}

func messages(rt *rapid.T) []Message {
	return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) Message {
		m := Message{ID: rapid.StringMatching("[a-z]{6}").Draw(rt, "id"), Sequence: rapid.Uint64Range(0, 100).Draw(rt, "sequence")}
		if rapid.Bool().Draw(rt, "keyed") {
			m.Key = []byte(rapid.StringMatching("[a-z]{0,3}").Draw(rt, "key"))
		}
		return m
	}), 1, 60).Draw(rt, "messages")
}

func TestTwoProxiesPlaceAlike(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ps, msgs := layouts(rt, false), messages(rt)
		producer := rapid.String().Draw(rt, "producer")
		one, _ := placed(newLayout(slices.Clone(ps), 0), producer, 8, msgs)
		two, _ := placed(newLayout(slices.Clone(ps), 0), producer, 8, msgs)
		if d := cmp.Diff(one, two); d != "" {
			rt.Fatal(d)
		}
	})
}

func TestSequencedPlaceDoesNotDependOnTheBatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		l := newLayout(layouts(rt, true), 0)
		whole, _ := placed(l, "p", 8, sequenced(1, 100))
		from := rapid.IntRange(1, 100).Draw(rt, "from")
		suffix, _ := placed(l, "p", 8, sequenced(from, 101-from))
		if d := cmp.Diff(whole[from-1:], suffix); d != "" {
			rt.Fatalf("a re-sent suffix lands elsewhere: %s", d)
		}
	})
}

func TestUnkeyedAvoidUnhealthyAndKeyedStay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ps := layouts(rt, false)
		l := newLayout(ps, 0)
		anyUp := slices.ContainsFunc(ps, func(p mq.Partition) bool { return p.Writable })
		msgs := messages(rt)
		at, moved := placed(l, "p", 8, msgs)
		for i, p := range at {
			switch {
			case msgs[i].Key != nil && int(p) != keyIndex(msgs[i].Key, len(ps)):
				rt.Fatalf("keyed message %d moved to %d", i, p)
			case msgs[i].Key == nil && anyUp && !l.up(p):
				rt.Fatalf("un-keyed message %d went to partition %d, which is down", i, p)
			}
		}
		if l.healthy && moved != 0 {
			rt.Fatalf("%d messages moved although all is well", moved)
		}
	})
}

func TestNeighboursLieOnDifferentBrokers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		b := rapid.IntRange(2, 6).Draw(rt, "brokers")
		ps := onBrokers(b*rapid.IntRange(1, 8).Draw(rt, "each"), b)
		order, n := spreadOrder(ps)
		if n != b || len(order) != len(ps) {
			rt.Fatalf("%d brokers and %d entries", n, len(order))
		}
		for i := range order {
			if next := order[(i+1)%len(order)]; firstReplica(&ps[order[i]]) == firstReplica(&ps[next]) {
				rt.Fatalf("entries %d and %d share a broker", i, i+1)
			}
		}
	})
}

func TestPinnedCountPlacesAsBeforePartitionsWereAdded(t *testing.T) {
	t.Parallel()
	before, after := newLayout(onBrokers(6, 3), 6), newLayout(onBrokers(9, 3), 6)
	msgs := append(sequenced(1, 100), Message{Key: []byte("k")}, Message{Key: []byte("other")})
	a, _ := placed(before, "p", 8, msgs)
	b, _ := placed(after, "p", 8, msgs)
	if d := cmp.Diff(a, b); d != "" {
		t.Error(d)
	}
	if at, _ := placed(after, "p", 8, []Message{{Partition: "8"}}); at[0] != 8 {
		t.Errorf("an explicit partition beyond the pinned count went to %d", at[0])
	}
	short := newLayout(onBrokers(2, 2), 6)
	keys := 0
	for i := range 50 {
		if at, _ := placed(short, "p", 8, []Message{{Key: fmt.Append(nil, i)}}); at[0] == beyond {
			keys++
		} else if want := keyIndex(fmt.Append(nil, i), 6); at[0] != int32(want) {
			t.Errorf("key %d went to %d, want %d", i, at[0], want)
		}
	}
	if keys == 0 {
		t.Error("no key was beyond a cluster that has fewer partitions than the route pins")
	}
}

func TestExplicitPartitionByName(t *testing.T) {
	t.Parallel()
	ps := []mq.Partition{
		{ID: mq.PartitionID{Topic: "t", Broker: "broker-1", Index: 0}, Leader: "broker-1", Writable: true},
		{ID: mq.PartitionID{Topic: "t", Broker: "broker-2", Index: 0}, Leader: "broker-2", Writable: true},
	}
	at, _ := placed(newLayout(ps, 0), "", 8, []Message{{Partition: "broker-2/0"}, {Partition: "0"}, {Partition: "broker-3/0"}})
	if d := cmp.Diff([]int32{1, noSuch, noSuch}, at); d != "" {
		t.Error(d)
	}
}

func FuzzMurmur2(f *testing.F) {
	f.Add([]byte(nil), 3)
	f.Add([]byte("abc"), 1)
	f.Add([]byte("\xff\xfe\xfd\xfc\xfb"), 1000)
	f.Fuzz(func(t *testing.T, key []byte, n int) {
		if n < 1 || n > 1<<20 {
			t.Skip()
		}
		if p := keyIndex(key, n); p < 0 || p >= n {
			t.Errorf("keyIndex(%q, %d) = %d", key, n, p)
		}
	})
}
