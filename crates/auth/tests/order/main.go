// Prints what Go's sort.Sort makes of keys of which many are equal: `keys -> places`.
// go run main.go > golden.txt
package main

import (
	"fmt"
	"math/rand"
	"sort"
	"strings"
)

type element struct{ key, place int }

type elements []element

func (e elements) Len() int           { return len(e) }
func (e elements) Less(i, j int) bool { return e[i].key < e[j].key }
func (e elements) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }

func show(keys []int) {
	all := elements{}
	for place, key := range keys {
		all = append(all, element{key, place})
	}
	sort.Sort(all)
	places := make([]string, len(all))
	for at, one := range all {
		places[at] = fmt.Sprint(one.place)
	}
	fmt.Printf("%s -> %s\n", strings.Trim(fmt.Sprint(keys), "[]"), strings.Join(places, " "))
}

func main() {
	random := rand.New(rand.NewSource(1))
	// One key behind sorted ones: what a grant makes.
	for length := 2; length < 60; length++ {
		for _, different := range []int{2, 5, 12} {
			keys := make([]int, length)
			for at := range keys {
				keys[at] = random.Intn(different)
			}
			sort.Ints(keys[:length-1])
			show(keys)
		}
	}
	// Anything.
	for round := 0; round < 60; round++ {
		keys := make([]int, 2+random.Intn(80))
		different := 1 + random.Intn(40)
		for at := range keys {
			keys[at] = random.Intn(different)
		}
		switch round % 4 {
		case 1:
			sort.Sort(sort.Reverse(sort.IntSlice(keys)))
		case 2:
			sort.Ints(keys)
			for count := random.Intn(4); count > 0; count-- {
				keys[random.Intn(len(keys))] = random.Intn(different)
			}
		}
		show(keys)
	}
}
