package main

import "github.com/aethervm/aether/internal/server/rest"

// treeRow is a sandbox, and what is drawn before it to show what it is a copy of.
type treeRow struct {
	rest.Sandbox
	branch string
}

func asList(list []rest.Sandbox) []treeRow {
	rows := make([]treeRow, 0, len(list))
	for _, sb := range list {
		rows = append(rows, treeRow{Sandbox: sb})
	}
	return rows
}

// asTrees puts each sandbox below the one that it is a copy of. Those whose original is not there stand for themselves. The
// order is otherwise that of the list; every sandbox of it is there once, whatever it says of its original.
func asTrees(list []rest.Sandbox) []treeRow {
	there := map[string]bool{}
	for _, sb := range list {
		there[sb.ID] = true
	}
	copies := map[string][]rest.Sandbox{}
	var roots []rest.Sandbox
	for _, sb := range list {
		if there[sb.Parent] && sb.Parent != sb.ID {
			copies[sb.Parent] = append(copies[sb.Parent], sb)
		} else {
			roots = append(roots, sb)
		}
	}
	rows := make([]treeRow, 0, len(list))
	shown := map[string]bool{}
	var add func(sb rest.Sandbox, before, branch string)
	add = func(sb rest.Sandbox, before, branch string) {
		if shown[sb.ID] {
			return
		}
		shown[sb.ID] = true
		rows = append(rows, treeRow{sb, before + branch})
		switch branch {
		case "├─ ":
			before += "│  "
		case "└─ ":
			before += "   "
		}
		below := copies[sb.ID]
		for i, c := range below {
			branch := "├─ "
			if i == len(below)-1 {
				branch = "└─ "
			}
			add(c, before, branch)
		}
	}
	for _, sb := range roots {
		add(sb, "", "")
	}
	for _, sb := range list { // of a circle, which no server makes
		add(sb, "", "")
	}
	return rows
}
