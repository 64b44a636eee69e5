package ackmap

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMapRoundTripsForAnyPattern(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, MaxWindow-1).Draw(t, "n")
		offset := rapid.Int64Range(0, 1<<60).Draw(t, "offset")
		seed := rapid.Uint64().Draw(t, "seed")
		m := Map{Words: make([]uint64, (n+63)/64), Clean: rapid.Bool().Draw(t, "clean")}
		any := false
		for i := range n {
			seed = seed*6364136223846793005 + 1442695040888963407
			if seed>>63 == 1 {
				m.Words[i/64] |= 1 << (i % 64)
				any = true
			}
		}
		text := Encode("id", offset, m)
		if len(text) > 4096 {
			t.Fatalf("%d characters", len(text))
		}
		got, ok := Decode(text, "id", offset)
		if ok != (any || m.Clean) || got.Clean != (m.Clean && ok) {
			t.Fatalf("ok %v, clean %v", ok, got.Clean)
		}
		for i := range n + 100 {
			if got.Done(int64(i)) != m.Done(int64(i)) {
				t.Fatalf("distance %d: %v", i, got.Done(int64(i)))
			}
		}
		for name, void := range map[string]func() (Map, bool){
			"another topic":  func() (Map, bool) { return Decode(text, "other", offset) },
			"another offset": func() (Map, bool) { return Decode(text, "id", offset+1) },
		} {
			if _, ok := void(); ok {
				t.Fatalf("believed for %s", name)
			}
		}
	})
}

func TestMapOfAFullWindowFitsKafka(t *testing.T) {
	t.Parallel()
	words := make([]uint64, MaxWindow/64)
	for i := range words {
		words[i] = ^uint64(0)
	}
	words[len(words)-1] >>= 1
	if text := Encode("id", 1<<40, Map{Words: words}); len(text) > 4096 {
		t.Fatalf("%d characters", len(text))
	}
	if w := Window(4096); w != MaxWindow {
		t.Errorf("window of 4,096 characters is %d", w)
	}
	if w := Window(0); w != MaxWindow {
		t.Errorf("window without metadata is %d", w)
	}
}

func TestWindowFitsItsRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.IntRange(64, 5000).Draw(t, "room")
		w := Window(room)
		words := make([]uint64, (w+63)/64)
		if i := w - 2; i >= 0 {
			words[i/64] |= 1 << (i % 64)
		}
		if text := Encode("id", 3, Map{Words: words}); len(text) > room {
			t.Fatalf("window %d takes %d of %d characters", w, len(text), room)
		}
	})
}

func TestMapRefusesEveryChangedCharacter(t *testing.T) {
	t.Parallel()
	text := Encode("id", 100, Map{Words: []uint64{0xdeadbeef}})
	for i := range len(text) {
		changed := text[:i] + string(text[i]^1) + text[i+1:]
		if _, ok := Decode(changed, "id", 100); ok {
			t.Errorf("character %d changed: believed", i)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode("id", 5, Map{Words: []uint64{1, 2, 3}}), int64(5))
	f.Add(Encode("id", 5, Map{Clean: true}), int64(5))
	f.Add("", int64(0))
	f.Add("metadata of somebody else", int64(7))
	f.Add("s1."+strings.Repeat("A", 4000), int64(7))
	f.Fuzz(func(t *testing.T, text string, offset int64) {
		m, ok := Decode(text, "id", offset)
		if !ok {
			return
		}
		again, ok := Decode(Encode("id", offset, m), "id", offset)
		if len(m.Words) > 0 && m.Words[len(m.Words)-1] != 0 && !ok {
			t.Fatal("not decoded again")
		}
		for i := range int64(len(m.Words)*64 + 2) {
			if again.Done(i) != m.Done(i) {
				t.Fatalf("distance %d differs", i)
			}
		}
	})
}
