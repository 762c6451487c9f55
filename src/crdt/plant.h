/* Bugs planted on purpose, for the test of the tests: CS_PLANT(NAME, right, wrong) is `right`, unless the room is
 * compiled with -DCS_PLANT_NAME. tests/crdt/planted.sh demands that some test fails for each of them. */
#ifndef CS_CRDT_PLANT_H
#define CS_CRDT_PLANT_H

/* 1 iff CS_PLANT_name is defined as 1: pasting makes CS_PLANT_IS_1, which brings a comma and so shifts the arguments.
 */
#define CS_PLANT_IS_1                0,
#define CS_PLANT_SECOND(a, b, ...)   b
#define CS_PLANT_PICK(...)           CS_PLANT_SECOND(__VA_ARGS__)
#define CS_PLANT_PASTE(defined_as)   CS_PLANT_PICK(CS_PLANT_IS_##defined_as 1, 0, 0)
#define CS_PLANT_DEFINED(defined_as) CS_PLANT_PASTE(defined_as)
#define CS_PLANT(name, right, wrong) (CS_PLANT_DEFINED(CS_PLANT_##name) ? (wrong) : (right))

#endif
