# The bytes of IN as the C array NAME and the length NAME_len, in OUT.  cmake -DIN= -DOUT= -DNAME= -P embed.cmake
file(READ ${IN} bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "(............................................................)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "#include \"clawsync/descriptors.h\"\n\nconst uint8_t ${NAME}[] = {\n${bytes}\n};\n"
  "const size_t ${NAME}_len = sizeof ${NAME};\n")
